import type { RequestListener, ServerResponse } from 'node:http';
import { beforeAll, expect, test } from 'vitest';
import { sampleBytes } from '../kit/layers.ts';
import { digestOf } from '../kit/registry-content.ts';
import { startServer } from '../kit/servers.ts';
import { makeOrigin } from './kit/origins.ts';
import { Scatter } from '../../src/util/scatter.ts';

const bytes = sampleBytes(1000, 1);
const digest = digestOf(bytes);
const right = bytes.subarray(100, 150);
const { signal } = new AbortController();

/** A registry that behaves as told when a blob is read; `asked` counts. */
async function start(listener: (response: ServerResponse, first: number) => void) {
  const state = { asked: 0 };
  const answer: RequestListener = (request, response) => {
    state.asked++;
    listener(response, Number(/^bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1]));
  };
  const host = await startServer(answer);
  const origin = makeOrigin({ host, insecure: true });
  const read = async (): Promise<Uint8Array> => {
    const target = new Uint8Array(50);
    const blob = { digest, sizeBytes: 1000, origin: { registry: host, repository: 'app' } };
    await origin.readInto(blob, 100, Scatter.of(target), signal);
    return target;
  };
  return { state, read };
}

/** Answers with a part that the server calls this range. */
const part =
  (range: string | undefined, body: Uint8Array, headers: Record<string, string> = {}) =>
  (response: ServerResponse): void =>
    void response
      .writeHead(206, { ...(range !== undefined && { 'content-range': range }), ...headers })
      .end(body);

const status =
  (code: number) =>
  (response: ServerResponse): void =>
    void response.writeHead(code, { 'www-authenticate': 'Basic realm="x"' }).end();

const refusedRange = (response: ServerResponse): void =>
  void response.writeHead(416, { 'content-range': 'bytes */1000' }).end();

const empty = new Uint8Array();

// So that the time until an answer is not that of loading the HTTP client.
beforeAll(async () => void (await import('../../src/registry/registry-views.ts')));

test.each<[string, (response: ServerResponse) => void, string, number]>([
  ['400', status(400), 'protocol', 1],
  ['401', status(401), 'refused', 1],
  ['403', status(403), 'refused', 1],
  ['404', status(404), 'not-found', 1],
  ['410', status(410), 'not-found', 1],
  // Asked for a part, and for all of the blob.
  ['416', status(416), 'protocol', 2],
  ['a part without a byte', part('bytes 100-149/1000', empty), 'protocol', 2],
  ['a part that ends early', part('bytes 100-149/1000', right.subarray(1)), 'protocol', 2],
  // Asked for a part twice, and for all of the blob twice.
  ['a part that names no range', part(undefined, right), 'protocol', 4],
  ['a part of another blob', part('bytes 100-149/999', right), 'protocol', 2],
  [
    'several parts for one range',
    part(undefined, right, { 'content-type': 'multipart/byteranges; boundary=x' }),
    'protocol',
    4,
  ],
  [
    'a coding that changes the bytes',
    part('bytes 100-149/*', right, { 'content-encoding': 'gzip' }),
    'protocol',
    2,
  ],
  [
    'a page',
    (response) => void response.setHeader('content-type', 'text/html').end('<html>'),
    'protocol',
    2,
  ],
])(
  'a registry that answers a read with %s is asked no more often than it takes, and is believed',
  async (_name, behave, code, requests) => {
    const { state, read } = await start(behave);
    const startedMs = performance.now();
    await expect(read()).rejects.toMatchObject({ name: 'OriginError', code });
    expect(state.asked).toBe(requests);
    // Other readers of the blob get the same error without another request.
    for (let i = 0; i < 20; i++) await expect(read()).rejects.toMatchObject({ code });
    expect(state.asked).toBe(requests);
    expect(performance.now() - startedMs).toBeLessThan(2_000);
  },
);

test('a registry that sends less than it was asked for is asked for the rest', async () => {
  const { state, read } = await start((response, first) => {
    const end = Math.min(150, first + 20);
    part(`bytes ${first}-${end - 1}/1000`, bytes.subarray(first, end))(response);
  });
  expect(Buffer.from(await read()).equals(right)).toBe(true);
  expect(state.asked).toBe(3);
});

test.each<[string, (first: number) => ReturnType<typeof part>]>([
  ['that name no range', () => part(undefined, right)],
  ['that name another range', (first) => part(`bytes ${first + 1}-150/1000`, right)],
  ['in several pieces', () => part(undefined, right, { 'content-type': 'multipart/byteranges' })],
  [
    'that say 200',
    (first) => (response) => {
      const range = `bytes ${first}-${first + 49}/1000`;
      response.setHeader('content-range', range).setHeader('content-length', 50);
      response.end(bytes.subarray(first, first + 50));
    },
  ],
  ['that are refused', () => status(416)],
  ['that are refused with the size', () => refusedRange],
  ['that go on to the end', (first) => part(`bytes ${first}-999/1000`, bytes.subarray(first))],
])('a registry with parts %s is read whole', async (_name, behave) => {
  let whole = 0;
  const host = await startServer((request, response) => {
    const first = /^bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1];
    if (first !== undefined) return behave(Number(first))(response);
    whole++;
    response.setHeader('content-length', bytes.length).end(bytes);
  });
  const origin = makeOrigin({ host, insecure: true });
  const blob = { digest, sizeBytes: 1000, origin: { registry: host, repository: 'app' } };
  for (const offset of [100, 200, 20]) {
    const target = new Uint8Array(50);
    await origin.readInto(blob, offset, Scatter.of(target), signal);
    expect(Buffer.from(target).equals(bytes.subarray(offset, offset + 50))).toBe(true);
  }
  expect(whole).toBe(1);
});

test('a registry that sends a byte at a time is given up', async () => {
  const byteByByte = (response: ServerResponse, first: number): void =>
    part(`bytes ${first}-${first}/1000`, bytes.subarray(first, first + 1))(response);
  const host = await startServer((request, response) =>
    byteByByte(response, Number(/^bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1])),
  );
  const origin = makeOrigin({ host, insecure: true });
  const blob = { digest, sizeBytes: 1000, origin: { registry: host, repository: 'app' } };
  const reading = origin.readInto(blob, 0, Scatter.of(new Uint8Array(500)), signal);
  await expect(reading).rejects.toMatchObject({ code: 'protocol' });
});

test('stored content that carries the name of its compression is read as it is', async () => {
  for (const coding of ['gzip', 'x-gzip']) {
    const headers = { 'content-encoding': coding, 'content-type': 'text/html' };
    const { read } = await start(part('bytes 100-149/1000', right, headers));
    expect(Buffer.from(await read()).equals(right)).toBe(true);
  }
});

test('a server that broke off twice may be asked again', async () => {
  const { state, read } = await start((response) => {
    if (state.asked > 2) return part('bytes 100-149/1000', right)(response);
    response.writeHead(206, { 'content-range': 'bytes 100-149/1000', 'content-length': 50 });
    response.flushHeaders();
    setImmediate(() => response.destroy());
  });
  expect(Buffer.from(await read()).equals(right)).toBe(true);
});
