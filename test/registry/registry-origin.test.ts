import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { EmbeddedRegistry } from '../../src/demo/embedded-registry.ts';
import { startProxy } from '../kit/front-servers.ts';
import { sampleBytes } from '../kit/layers.ts';
import { putLayout } from '../kit/oci-layout.ts';
import { digestOf } from '../kit/registry-content.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { makeOrigin } from './kit/origins.ts';
import { startServer } from '../kit/servers.ts';
import { Scatter } from '../../src/util/scatter.ts';

const layer = sampleBytes(600_000, 4);
const { signal } = new AbortController();

async function startEmbedded() {
  const layoutDir = tempFolder();
  const image = await putLayout(layoutDir, '1', [layer]);
  const registry = new EmbeddedRegistry({ layoutDir, repository: 'team/app' });
  await registry.start();
  onTestFinished(() => registry.stop());
  return { image, host: registry.address, registry };
}

test('RegistryOrigin resolves an image, gives the size of its blob and reads parts', async () => {
  const { image, host, registry } = await startEmbedded();
  const origin = makeOrigin({ host, insecure: true });
  const found = await origin.resolve(`${host}/team/app:1`, signal);
  expect(found.manifestDigest).toBe(image.digest);
  expect(digestOf(found.manifest)).toBe(image.digest);
  expect(found.origin).toEqual({ registry: host, repository: 'team/app' });
  const digest = digestOf(layer);
  const { sizeBytes, isPublic } = await origin.stat(digest, found.origin, signal);
  expect([sizeBytes, isPublic]).toEqual([layer.length, true]);
  const target = new Uint8Array(262_144);
  await origin.readInto(
    { digest, sizeBytes, origin: found.origin },
    262_144,
    Scatter.of(target),
    signal,
  );
  expect(Buffer.from(target).equals(layer.subarray(262_144, 524_288))).toBe(true);
  expect(registry.stats()).toEqual({ blobBytes: 262_145, blobRequests: 2 });
});

test('RegistryOrigin errors say whether another attempt may succeed', async () => {
  const { host } = await startEmbedded();
  const origin = makeOrigin({ host, insecure: true });
  for (const reference of [`${host}/team/app:2`, `${host}/other/app:1`, `${host}/Team:1`]) {
    await expect(origin.resolve(reference, signal)).rejects.toMatchObject({
      name: 'OriginError',
      code: 'not-found',
    });
  }
  const where = { registry: '127.0.0.1:1', repository: 'app' };
  const aborted = AbortSignal.abort(new Error('no longer wanted'));
  await expect(origin.stat(digestOf(layer), where, aborted)).rejects.toMatchObject({
    name: 'OriginError',
    code: 'unavailable',
  });
});

test('RegistryOrigin refuses files that do not hold what they should', () => {
  const file = join(tempFolder(), 'file');
  const host = 'registry.example';
  const missing = () => makeOrigin({ host, credentialsFile: file });
  expect(missing).toThrow(
    /registries\[host=registry.example\].credentialsFile is ".*cannot be read/,
  );
  writeFileSync(file, 'password alone\n');
  expect(missing).toThrow(/must hold one line user:password/);
  expect(() => makeOrigin({ host, caFile: file })).toThrow(/caFile is .*PEM/);
});

test('RegistryOrigin takes proxies from the environment, lower case first', async () => {
  const proxy = await startProxy();
  const host = 'registry.invalid';
  const variables = {
    http_proxy: proxy.url.replace('http://', ''),
    HTTP_PROXY: 'http://127.0.0.1:1',
  };
  const origin = makeOrigin({ host, insecure: true }, { variables });
  const stat = origin.stat(digestOf(layer), { registry: host, repository: 'app' }, signal);
  await expect(stat).rejects.toMatchObject({ code: 'unavailable' });
  expect(proxy.asked[0]).toContain(`GET http://${host}/v2/app/blobs/`);
  const wrong = { HTTPS_PROXY: 'socks5://me:secret@proxy' };
  const make = () => makeOrigin({ host }, { variables: wrong });
  expect(make).toThrow(/^the variable HTTPS_PROXY must be a proxy URL: http/);
  expect(make).not.toThrow(/secret/);
});

test('RegistryOrigin.stat() calls public, for a while, what a registry gives anybody', async () => {
  const { host } = await startEmbedded();
  const where = { registry: host, repository: 'team/app' };
  const asked: (string | undefined)[] = [];
  const secret = await startServer((request, response) => {
    asked.push(request.headers.authorization);
    const known = request.headers.authorization !== undefined;
    if (!known) response.setHeader('www-authenticate', 'Basic realm="r"');
    response.writeHead(known ? 200 : 401, { 'content-length': known ? 600_000 : 0 }).end();
  });
  const credentialsFile = join(tempFolder(), 'credentials');
  writeFileSync(credentialsFile, 'reader:pass:word\n');
  const open = makeOrigin({ host, insecure: true });
  expect(await open.stat(digestOf(layer), where, signal)).toMatchObject({ isPublic: true });
  const origin = makeOrigin({ host: secret, insecure: true, credentialsFile });
  for (const digest of [digestOf(layer), digestOf(layer.subarray(1))]) {
    const found = await origin.stat(digest, { registry: secret, repository: 'app' }, signal);
    expect(found).toEqual({ sizeBytes: 600_000, isPublic: false });
  }
  const basic = `Basic ${Buffer.from('reader:pass:word').toString('base64')}`;
  expect(asked).toEqual([undefined, undefined, basic, basic]);
});
