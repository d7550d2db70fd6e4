import type { RequestListener } from 'node:http';
import { expect, test } from 'vitest';
import type { RegistryError } from '../../../src/registry/errors.ts';
import { Pacers, type Lane } from '../../../src/registry/http/pacer.ts';
import { registryMetrics } from '../../../src/registry/metrics.ts';
import { silentMetrics } from '../../../src/runtime/metrics.ts';
import { UrlSender } from '../../../src/registry/url-sender.ts';
import { DeadlineError } from '../../../src/runtime/deadline.ts';
import { Scatter } from '../../../src/util/scatter.ts';
import { sampleBytes } from '../../kit/layers.ts';
import { digestOf } from '../../kit/registry-content.ts';
import { startServer } from '../../kit/servers.ts';
import { clientOf, makeRegistries, passingClock } from '../kit/clients.ts';

const digest = digestOf(sampleBytes(1000, 1));

async function start(listener: RequestListener, requestsPerSecond?: number) {
  const clock = passingClock();
  const host = await startServer(listener);
  const init = { registries: [{ host, insecure: true }], requestsPerSecond };
  const registries = makeRegistries(init, clock);
  const client = clientOf(registries, clock);
  const stranger = clientOf(registries, clock, 'nobody');
  const sender = new UrlSender({ registries, clock });
  const origin = (repository: string) => ({ registry: host, repository });
  const size = (timeoutMs = 30_000, repository = 'app') =>
    client.blobSize(origin(repository), digest, { timeoutMs });
  const sizeForNobody = () => stranger.blobSize(origin('app'), digest);
  const read = async () => {
    const target = new Scatter([new Uint8Array(1000)]);
    await client.readBlobInto({ digest, sizeBytes: 1000, origin: origin('app') }, 0, target);
  };
  const { signal } = new AbortController();
  const ask = async (path: string, limit = signal, headers = {}) => {
    const url = `http://${host}/v2/${path}`;
    const { status, body } = await sender.open({ method: 'GET', url, headers }, limit);
    body.destroy();
    return status;
  };
  return { clock, size, sizeForNobody, read, ask };
}

const found: RequestListener = (_request, response) =>
  void response.writeHead(200, { 'content-length': 1000 }).end();

test('RegistryClient keeps to the request rate of a registry, in arrival order', async () => {
  const times: number[] = [];
  const { clock, size } = await start((request, response) => {
    times.push(clock.nowMs());
    found(request, response);
  }, 4);
  await Promise.all(Array.from({ length: 12 }, () => size()));
  expect(times.length).toBe(12);
  // Four at once, then one each 250 ms: the fake clock moves by the sleeps alone.
  expect(clock.slept).toEqual(Array(8).fill(250));
});

test('RegistryClient keeps its deadline while it waits for its turn', async () => {
  const { clock, size } = await start(found, 1);
  await size();
  const late = size(100);
  await expect(late).rejects.toMatchObject({ code: 'timeout' });
  expect(clock.slept[0]).toBe(1_000);
});

test('RegistryClient sends a registry nothing while its Retry-After lasts', async () => {
  let asked = 0;
  let isLimited = true;
  const { clock, size } = await start((request, response) => {
    asked++;
    if (isLimited) response.writeHead(429, { 'retry-after': '45' }).end();
    else found(request, response);
  });
  // It asks for more than the deadline leaves.
  await expect(size()).rejects.toMatchObject({ code: 'rate-limited' });
  await expect(size()).rejects.toMatchObject({ detail: { code: 'rate-limited' } });
  expect(asked).toBe(1);
  isLimited = false;
  clock.advance(20_000);
  expect(await size()).toBe(1000);
  expect(clock.slept).toEqual([25_000]);
  expect(asked).toBe(2);
});

test('RegistryClient asks again after 5 minutes, however long the Retry-After', async () => {
  let asked = 0;
  const { clock, size } = await start((_request, response) => {
    asked++;
    response.writeHead(503, { 'retry-after': '86400' }).end();
  });
  await expect(size()).rejects.toMatchObject({ code: 'unavailable' });
  clock.advance(299_000);
  await expect(size(500)).rejects.toMatchObject({ code: 'rate-limited' });
  expect(asked).toBe(1);
  clock.advance(1_000);
  await expect(size()).rejects.toMatchObject({ code: 'unavailable' });
  expect(asked).toBe(2);
});

/** A registry that limits who asks below `evil/`, and strangers. */
const limitsSome: RequestListener = (request, response) => {
  const isLimited = request.url?.startsWith('/v2/evil/') === true;
  if (isLimited) response.writeHead(429, { 'retry-after': '999999' }).end();
  else response.writeHead(200, { 'content-length': 1000 }).end(sampleBytes(1000, 1));
};

test('an attacker who has a registry limit his request stops no read of the agent', async () => {
  const { size, read, ask } = await start(limitsSome);
  expect(await ask('evil/tags/list')).toBe(429);
  await expect(ask('evil/tags/list')).rejects.toMatchObject({ code: 'rate-limited' });
  expect(await size()).toBe(1000);
  await read();
});

test('an attacker who has a registry limit his request stops no other client', async () => {
  const { ask } = await start((request, response) => {
    const isKnown = request.headers.authorization === 'Bearer good';
    if (isKnown) response.end();
    else response.writeHead(429, { 'retry-after': '999999' }).end();
  });
  const { signal } = new AbortController();
  const limited = { code: 'rate-limited' };
  for (const headers of [{}, { authorization: 'Bearer bad' }]) {
    expect(await ask('app/manifests/latest', signal, headers)).toBe(429);
    await expect(ask('app/blobs/x', signal, headers)).rejects.toMatchObject(limited);
    expect(await ask('app/blobs/x', signal, { authorization: 'Bearer good' })).toBe(200);
  }
});

test('an attacker who has a registry limit a repository stops nothing of another one', async () => {
  const { ask } = await start(limitsSome);
  for (const path of ['evil/tags/list', 'evil/v2/app/blobs/x', 'evil/blobs/app/manifests/x']) {
    expect(await ask(path)).toBe(429);
    expect(await ask('app/tags/list')).toBe(200);
  }
});

test('an attacker who has the agent ask for what is limited stops none of its reads', async () => {
  const { size, sizeForNobody, read, ask } = await start(limitsSome);
  await expect(size(30_000, 'evil')).rejects.toMatchObject({ code: 'rate-limited' });
  await expect(size(30_000, 'evil')).rejects.toMatchObject({ detail: { code: 'rate-limited' } });
  expect(await size()).toBe(1000);
  await read();
  expect(await sizeForNobody()).toBe(1000);
  expect(await ask('app/tags/list')).toBe(200);
});

test('a registry that limits strangers still answers the credentials of the agent', async () => {
  let asked = 0;
  const { size, sizeForNobody } = await start((_request, response) => {
    if (++asked === 1) response.writeHead(429, { 'retry-after': '999' }).end();
    else response.writeHead(200, { 'content-length': 1000 }).end(sampleBytes(1000, 1));
  });
  await expect(sizeForNobody()).rejects.toMatchObject({ code: 'rate-limited' });
  expect(await size()).toBe(1000);
});

test('Pacers keep one rate for all lanes, which take turns: a flood delays no other', async () => {
  const clock = passingClock();
  const metrics = registryMetrics(silentMetrics);
  const pacers = new Pacers({ clock, metrics }, { configured: [], requestsPerSecond: 1 });
  const order: string[] = [];
  const leave = new AbortController();
  const turn = async (lane: Lane): Promise<void> => {
    await pacers.of('r.example', lane).turn({ repository: 'app' }, leave.signal);
    order.push(lane);
    if (order.length === 6) leave.abort(new DeadlineError('too late'));
  };
  const flood = Promise.allSettled(Array.from({ length: 1100 }, () => turn('client')));
  await Promise.all([turn('own'), turn('own')]);
  expect(order.slice(0, 5).filter((lane) => lane === 'own')).toHaveLength(2);
  const codes = (await flood).map((each) =>
    each.status === 'rejected' ? (each.reason as RegistryError).code : 'done',
  );
  expect(order).toHaveLength(6);
  expect(clock.nowMs()).toBeGreaterThanOrEqual(5_000);
  // Both those without a place in line and those that nobody was asked for in time.
  expect(codes.filter((code) => code === 'done')).toHaveLength(4);
  expect(codes.filter((code) => code === 'overloaded')).toHaveLength(1096);
});
