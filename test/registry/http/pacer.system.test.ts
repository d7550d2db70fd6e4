import type { RequestListener } from 'node:http';
import { expect, test } from 'vitest';
import { sampleBytes } from '../../kit/layers.ts';
import { digestOf } from '../../kit/registry-content.ts';
import { startServer } from '../../kit/servers.ts';
import { clientOf, makeRegistries, passingClock } from '../kit/clients.ts';

const digest = digestOf(sampleBytes(1000, 1));

async function start(listener: RequestListener, requestsPerSecond?: number) {
  const clock = passingClock();
  const host = await startServer(listener);
  const init = { registries: [{ host, insecure: true }], requestsPerSecond };
  const client = clientOf(makeRegistries(init, clock), clock);
  const size = (timeoutMs = 30_000) =>
    client.blobSize({ registry: host, repository: 'app' }, digest, { timeoutMs });
  return { clock, size };
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
