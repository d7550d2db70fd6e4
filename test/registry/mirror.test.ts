import type { RequestListener } from 'node:http';
import { expect, test } from 'vitest';
import type { RegistryConfig } from '../../src/registry/registries.ts';
import { sampleBytes } from '../kit/layers.ts';
import { digestOf } from '../kit/registry-content.ts';
import { startServer } from '../kit/servers.ts';
import { clientOf, makeClient, makeRegistries, passingClock } from './kit/clients.ts';
import { Scatter } from '../../src/util/scatter.ts';

const bytes = sampleBytes(1000, 1);
const digest = digestOf(bytes);
const right = bytes.slice(100, 150);

const answer: RequestListener = (_request, response) => {
  response.writeHead(206, { 'content-range': 'bytes 100-149/1000', 'content-length': 50 });
  response.end(right);
};

/** A registry that answers, behind a mirror that behaves as told. */
async function start(mirror: RequestListener, entry: Partial<RegistryConfig> = {}) {
  const asked = { mirror: 0, registry: 0 };
  const clock = passingClock();
  const mirrorHost = await startServer((request, response) => {
    asked.mirror++;
    mirror(request, response);
  });
  const host = await startServer((request, response) => {
    asked.registry++;
    answer(request, response);
  });
  const mirrors = [`http://${mirrorHost}`];
  const init = { registries: [{ host, insecure: true, mirrors, ...entry }] };
  const registries = makeRegistries(init, clock);
  const client = clientOf(registries, clock);
  const origin = { registry: host, repository: 'app' };
  const read = async (): Promise<void> => {
    const target = new Uint8Array(50);
    await client.readBlobInto({ digest, sizeBytes: 1000, origin }, 100, Scatter.of(target));
    expect(target).toEqual(right);
  };
  return { asked, clock, read, client, registries, origin, mirrorHost };
}

const refuse =
  (status: number, headers: Record<string, string> = {}): RequestListener =>
  (_request, response) =>
    void response.writeHead(status, headers).end();

const short: RequestListener = (_request, response) => {
  response.writeHead(206, { 'content-range': 'bytes 100-149/1000' }).end(right.slice(0, 10));
};

test.each<[string, RequestListener]>([
  ['answers 404', refuse(404)],
  ['answers 403', refuse(403)],
  ['answers 500', refuse(500)],
  ['answers 503', refuse(503)],
  ['answers 429', refuse(429, { 'retry-after': '1' })],
  ['wants credentials', refuse(401, { 'www-authenticate': 'Basic realm="x"' })],
  ['sends too little', short],
  ['hangs up', (request) => void request.socket.destroy()],
  ['sends another range', (_, response) => void response.writeHead(206).end(right)],
  [
    'leads in a circle',
    (request, response) => void refuse(307, { location: request.url ?? '' })(request, response),
  ],
])('RegistryClient passes over a mirror that %s, at once and for 30 s', async (_name, listener) => {
  const { asked, clock, read } = await start(listener);
  await read();
  const before = asked.mirror;
  await read();
  expect(asked).toEqual({ mirror: before, registry: 2 });
  clock.advance(30_000);
  await read();
  expect(asked.mirror).toBeGreaterThan(before);
  expect(clock.slept).toEqual([]);
});

test('RegistryClient leaves a mirror alone for as long as it asks, up to 5 min', async () => {
  for (const [seconds, longMs] of [
    ['120', 120_000],
    ['3600', 300_000],
  ] as const) {
    const { asked, clock, read } = await start(refuse(429, { 'retry-after': seconds }));
    await read();
    clock.advance(longMs - 1);
    await read();
    expect(asked.mirror).toBe(1);
    clock.advance(1);
    await read();
    expect(asked.mirror).toBe(2);
  }
});

test('RegistryClient waits 5 s for a silent or slow mirror, then leaves it alone', async () => {
  let tick = (): void => {};
  const { asked, clock, read } = await start((_request, response) => {
    response.writeHead(206, { 'content-range': 'bytes 100-149/1000', 'content-length': 50 });
    // A byte a second: never silent for long, and never done.
    response.write(right.slice(0, 1), () => tick());
  });
  tick = () => clock.advance(5_000);
  await read();
  await read();
  expect(asked).toEqual({ mirror: 1, registry: 2 });
});

test('RegistryClient leaves a mirror alone after a caller gave up waiting for it', async () => {
  let tick = (): void => {};
  const { asked, clock, read, client, origin } = await start(() => tick());
  const abort = new AbortController();
  tick = () => {
    clock.advance(1_000);
    abort.abort(new Error('enough'));
  };
  const { signal } = abort;
  await expect(client.blobSize(origin, digest, { signal })).rejects.toThrow('enough');
  await read();
  expect(asked).toEqual({ mirror: 1, registry: 1 });
});

test('RegistryClient still asks a mirror for other blobs after it lacked one', async () => {
  const { asked, read, client, origin } = await start((request, response) => {
    if (request.url?.includes(digest) === true) refuse(404)(request, response);
    else answer(request, response);
  });
  await read();
  const other = { digest: digestOf(sampleBytes(1000, 2)), sizeBytes: 1000, origin };
  await client.readBlobInto(other, 100, Scatter.of(new Uint8Array(50)));
  expect(asked).toEqual({ mirror: 2, registry: 1 });
});

test('RegistryClient takes no manifest from a mirror that is not that of its digest', async () => {
  const manifest = Buffer.from('{"schemaVersion":2}');
  const host = await startServer((_request, response) => void response.end(manifest));
  let mirrored = 0;
  const mirror = await startServer((_request, response) => {
    mirrored++;
    response.end('{"schemaVersion":3}');
  });
  const clock = passingClock();
  const client = makeClient([{ host, insecure: true, mirrors: [`http://${mirror}`] }], clock);
  const origin = { registry: host, repository: 'app' };
  const found = await client.manifest(origin, digestOf(manifest));
  expect(Buffer.from(found.bytes).equals(manifest)).toBe(true);
  clock.advance(9 * 60_000);
  await client.manifest(origin, digestOf(manifest));
  expect(mirrored).toBe(1);
});

test('RegistryClient.distrustMirrors() leaves mirrors alone for 10 minutes', async () => {
  const { asked, clock, read, client, registries, origin } = await start(answer);
  await read();
  client.distrustMirrors(origin.registry);
  await read();
  clock.advance(10 * 60_000);
  await read();
  expect(asked).toEqual({ mirror: 2, registry: 1 });
  await registries.close();
  client.distrustMirrors(origin.registry);
});

test('RegistryClient gives a mirror its own credentials, never those of the registry', async () => {
  const seen = new Set<string | undefined>();
  const mirror = await startServer((request, response) => {
    seen.add(request.headers.authorization);
    if (request.headers.authorization !== undefined) answer(request, response);
    else refuse(401, { 'www-authenticate': 'Basic realm="x"' })(request, response);
  });
  const host = await startServer(answer);
  const as = (username: string) => async () => ({ username, password: 'secret' });
  const read = async (own: Partial<RegistryConfig>[]): Promise<void> => {
    const registry = {
      host,
      insecure: true,
      mirrors: [`http://${mirror}`],
      credentials: as('registry'),
    };
    const entries = own.map((entry) => ({ host: mirror, ...entry }));
    const client = makeClient([registry, ...entries], passingClock());
    const origin = { registry: host, repository: 'app' };
    await client.readBlobInto(
      { digest, sizeBytes: 1000, origin },
      100,
      Scatter.of(new Uint8Array(50)),
    );
  };
  await read([]);
  expect(seen).toEqual(new Set([undefined]));
  await read([{ credentials: as('mirror') }]);
  const basic = `Basic ${Buffer.from('mirror:secret').toString('base64')}`;
  expect(seen).toEqual(new Set([undefined, basic]));
  // Credentials that cannot be read are no reason not to ask the registry.
  await read([{ credentials: () => Promise.reject(new Error('no such file')) }]);
});
