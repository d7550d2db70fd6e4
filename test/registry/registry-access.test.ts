import type { RequestListener } from 'node:http';
import { expect, test } from 'vitest';
import { sampleBytes } from '../kit/layers.ts';
import { digestOf } from '../kit/registry-content.ts';
import { startServer } from '../kit/servers.ts';
import { makeAccess } from './kit/origins.ts';
import { clientOf, makeRegistries, passingClock } from './kit/clients.ts';
import { Scatter } from '../../src/util/scatter.ts';

const bytes = sampleBytes(1000, 1);
const digest = digestOf(bytes);
const { signal } = new AbortController();

const found: RequestListener = (_request, response) =>
  void response.writeHead(206, { 'content-range': 'bytes 0-0/1000' }).end('x');

test('all ways to a registry share its request rate', async () => {
  let asked = 0;
  const clock = passingClock();
  const host = await startServer((request, response) => {
    asked++;
    found(request, response);
  });
  const limits = { originReads: 32, registryRequestsPerSecond: 20 };
  const { origin, urls } = makeAccess({ host, insecure: true }, { limits }, clock);
  const where = { registry: host, repository: 'app' };
  const each = Array.from({ length: 12 }, (_, i) => digestOf(sampleBytes(100, i)));
  const open = async (path: string): Promise<void> => {
    const url = `http://${host}${path}`;
    const answer = await urls.open({ method: 'GET', url, headers: {} }, signal);
    answer.body.destroy();
  };
  await Promise.all([
    ...each.map((blob) => origin.stat(blob, where, signal)),
    ...each.map((blob) =>
      origin.readInto(
        { digest: blob, sizeBytes: 1000, origin: where },
        0,
        Scatter.of(new Uint8Array(1)),
        signal,
      ),
    ),
    ...each.map(() => open(`/v2/app/blobs/${digest}`)),
  ]);
  expect(asked).toBe(36);
  // A second's worth at once, and from then on one each 50 ms: the clock moves by these sleeps
  // alone.
  expect(clock.slept).toEqual(Array(16).fill(50));
});

test.each(['own', 'nobody', 'client'] as const)(
  'a Retry-After that the %s view was told holds for it, and for nobody else',
  async (view) => {
    let asked = 0;
    const host = await startServer((_request, response) => {
      asked++;
      response.writeHead(429, { 'retry-after': '40' }).end();
    });
    const clock = passingClock();
    const registries = makeRegistries({ registries: [{ host, insecure: true }] }, clock);
    const { UrlSender } = await import('../../src/registry/url-sender.ts');
    const sender = new UrlSender({ registries, clock });
    const where = { registry: host, repository: 'app' };
    const ask = {
      own: () => clientOf(registries, clock, 'own').blobSize(where, digest, { timeoutMs: 10_000 }),
      nobody: () =>
        clientOf(registries, clock, 'nobody').manifest(where, '1', { timeoutMs: 5_000 }),
      client: async () => {
        const url = `http://${host}/v2/app/manifests/1`;
        const answer = await sender.open({ method: 'GET', url, headers: {} }, signal);
        answer.body.destroy();
      },
    };
    await ask[view]().catch(() => {});
    await expect(ask[view]()).rejects.toMatchObject({ code: 'rate-limited' });
    expect(asked).toBe(1);
    for (const again of Object.values(ask)) await again().catch(() => {});
    expect(asked).toBe(3);
  },
);

test('RegistryAccess shows its credentials in its own name alone', async () => {
  const shown: (string | undefined)[] = [];
  const host = await startServer((request, response) => {
    shown.push(request.headers.authorization);
    response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
  });
  const clock = passingClock();
  const credentials = async () => ({ username: 'reader', password: 'secret' });
  const init = { registries: [{ host, insecure: true, credentials }] };
  const registries = makeRegistries(init, clock);
  const where = { registry: host, repository: 'app' };
  for (const view of ['nobody', 'own'] as const) {
    const size = clientOf(registries, clock, view).blobSize(where, digest);
    await expect(size).rejects.toMatchObject({ code: 'unauthorized' });
  }
  const basic = `Basic ${Buffer.from('reader:secret').toString('base64')}`;
  expect(shown).toEqual([undefined, undefined, basic]);
});

test('RegistryAccess gives no more once it is closed', async () => {
  const access = makeAccess({ host: 'registry.example' });
  await access.close();
  const where = { registry: 'registry.example', repository: 'app' };
  await expect(access.origin.stat(digest, where, signal)).rejects.toMatchObject({
    cause: { code: 'closed' },
  });
  const request = { method: 'GET', url: 'https://registry.example/', headers: {} } as const;
  await expect(access.urls.open(request, signal)).rejects.toMatchObject({ code: 'closed' });
});
