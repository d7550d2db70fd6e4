import { expect, onTestFinished, test } from 'vitest';
import { EmbeddedRegistry } from '../../src/demo/embedded-registry.ts';
import { sampleBytes } from '../kit/layers.ts';
import { putLayout } from '../kit/oci-layout.ts';
import { digestOf } from '../kit/registry-content.ts';
import { tempFolder } from '../kit/temp-folder.ts';

const layer = sampleBytes(300_000, 3);

async function start() {
  const layoutDir = tempFolder();
  const image = await putLayout(layoutDir, '1', [layer]);
  const registry = new EmbeddedRegistry({ layoutDir, repository: 'team/app' });
  await registry.start();
  onTestFinished(() => registry.stop());
  return { registry, image, base: `http://${registry.address}/v2/team/app` };
}

test('EmbeddedRegistry serves manifests by tag and by digest', async () => {
  const { base, image } = await start();
  for (const name of ['1', image.digest]) {
    const response = await fetch(`${base}/manifests/${name}`);
    expect(response.headers.get('docker-content-digest')).toBe(image.digest);
    expect(response.headers.get('content-type')).toBe(image.mediaType);
    expect(digestOf(await response.bytes())).toBe(image.digest);
  }
  expect((await fetch(`${base}/manifests/2`)).status).toBe(404);
});

test('EmbeddedRegistry serves parts of blobs, and counts what it sends', async () => {
  const { registry, base } = await start();
  const url = `${base}/blobs/${digestOf(layer)}`;
  const head = await fetch(url, { method: 'HEAD' });
  expect(head.headers.get('content-length')).toBe('300000');
  const part = await fetch(url, { headers: { range: 'bytes=1000-1999' } });
  expect(part.status).toBe(206);
  expect(part.headers.get('content-range')).toBe('bytes 1000-1999/300000');
  expect(Buffer.from(await part.bytes()).equals(layer.subarray(1000, 2000))).toBe(true);
  expect(registry.stats()).toEqual({ blobBytes: 1000, blobRequests: 1 });
  const beyond = await fetch(url, { headers: { range: 'bytes=300000-' } });
  expect([beyond.status, beyond.headers.get('content-range')]).toEqual([416, 'bytes */300000']);
  const whole = await fetch(url);
  expect((await whole.bytes()).length).toBe(300_000);
  expect(registry.stats()).toEqual({ blobBytes: 301_000, blobRequests: 2 });
});

test('EmbeddedRegistry refuses what it does not have and what it does not do', async () => {
  const { registry, base } = await start();
  const missing = digestOf(sampleBytes(5, 5));
  expect((await fetch(`${base}/blobs/${missing}`)).status).toBe(404);
  expect((await fetch(`${base}/blobs/..%2f..%2findex.json`)).status).toBe(404);
  expect((await fetch(`http://${registry.address}/v2/other/manifests/1`)).status).toBe(404);
  expect((await fetch(`${base}/blobs/uploads/`, { method: 'POST' })).status).toBe(405);
});

test('EmbeddedRegistry.stop() ends also when a client keeps its connection', async () => {
  const { registry, base } = await start();
  const response = await fetch(`${base}/blobs/${digestOf(layer)}`);
  await registry.stop();
  await response.bytes().catch(() => {});
  await expect(fetch(base)).rejects.toThrow();
});
