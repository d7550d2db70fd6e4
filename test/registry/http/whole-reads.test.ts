import type { ServerResponse } from 'node:http';
import { expect, test } from 'vitest';
import type { Clock } from '../../../src/runtime/clock.ts';
import { SystemClock } from '../../../src/runtime/node/clock.ts';
import { takenOrGone } from '../../kit/fake-registry.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { sampleBytes } from '../../kit/layers.ts';
import { digestOf } from '../../kit/registry-content.ts';
import { startServer } from '../../kit/servers.ts';
import { makeClient } from '../kit/clients.ts';
import { Scatter } from '../../../src/util/scatter.ts';

const MIB = 1024 * 1024;
const BLOCK = 256 * 1024;
const SIZE = 12 * MIB + 5;
const bytes = sampleBytes(SIZE, 3);
const digest = digestOf(bytes);

/** A registry that sends all of the blob, as fast as it is read, whatever the range. */
async function start(sizeBytes = SIZE, clock: Clock = new SystemClock()) {
  const state = { asked: 0, sentBytes: 0, honoursRanges: false };
  const send = async (response: ServerResponse): Promise<void> => {
    response.writeHead(200, { 'content-length': sizeBytes });
    for (let at = 0; at < sizeBytes && !response.destroyed; at += 65_536) {
      const piece = bytes.subarray(at % SIZE, Math.min((at % SIZE) + 65_536, sizeBytes));
      state.sentBytes += piece.length;
      if (!response.write(piece)) await takenOrGone(response);
    }
    response.end();
  };
  const host = await startServer((request, response) => {
    state.asked++;
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
    if (state.honoursRanges && range !== null) {
      const [first, last] = [Number(range[1]), Number(range[2])];
      response.writeHead(206, { 'content-range': `bytes ${first}-${last}/${SIZE}` });
      response.end(bytes.subarray(first, last + 1));
    } else void send(response);
  });
  const client = makeClient([{ host, insecure: true }], clock);
  const blob = { digest, sizeBytes, origin: { registry: host, repository: 'app' } };
  const read = async (offset: number, length = BLOCK, signal?: AbortSignal): Promise<void> => {
    const target = new Uint8Array(Math.min(length, sizeBytes - offset));
    await client.readBlobInto(blob, offset, Scatter.of(target), { signal });
    expect(Buffer.from(target).equals(bytes.subarray(offset, offset + target.length))).toBe(true);
  };
  return { state, read };
}

test('a blob of a server that ignores ranges is transferred once for all its blocks', async () => {
  const { state, read } = await start();
  // The engine's window of reads, a little out of order.
  const offsets = Array.from({ length: Math.ceil(SIZE / BLOCK) }, (_, i) => i * BLOCK);
  const shuffled = offsets.toSorted((a, b) => (a % (5 * BLOCK)) - (b % (5 * BLOCK)) || a - b);
  const lanes = Array.from({ length: 32 }, async () => {
    for (let next = shuffled.shift(); next !== undefined; next = shuffled.shift()) await read(next);
  });
  await Promise.all(lanes);
  // One range shows it for each read that begins at once; then the blob, and again for what was too
  // late.
  expect(state.asked).toBeLessThanOrEqual(32 + 3);
});

test('reads in order cost one transfer', async () => {
  const { state, read } = await start();
  for (let at = 0; at < SIZE; at += BLOCK) await read(at);
  expect(state.asked).toBe(2);
});

test('a server that ignores ranges is read no further than somebody wants', async () => {
  const { state, read } = await start(1_000 * MIB);
  await read(2 * MIB);
  await new Promise((resolve) => setTimeout(resolve, 200));
  const before = state.sentBytes;
  expect(before).toBeLessThan(40 * MIB);
  await new Promise((resolve) => setTimeout(resolve, 200));
  expect(state.sentBytes).toBe(before);
});

test('a read that goes back begins again, and those who read on are not held up', async () => {
  const { state, read } = await start();
  await read(0);
  await read(11 * MIB);
  await Promise.all([read(0), read(SIZE - 5)]);
  expect(state.asked).toBe(3);
});

test('a caller that gives up ends its own read alone', async () => {
  const { read } = await start();
  await read(0);
  const abort = new AbortController();
  const late = read(11 * MIB, BLOCK, abort.signal);
  const other = read(11 * MIB);
  abort.abort(new Error('enough'));
  await expect(late).rejects.toThrow('enough');
  await other;
});

test('a server that has filled its cache is asked for ranges again', async () => {
  const clock = new ManualClock();
  const { state, read } = await start(SIZE, clock);
  await read(MIB);
  state.honoursRanges = true;
  clock.advance(60_000);
  const { asked } = state;
  await read(5 * MIB);
  await read(9 * MIB);
  expect(state.asked).toBe(asked + 2);
});

test('reads of more blobs than are transferred at a time wait for a place', async () => {
  const blobs = Array.from({ length: 20 }, (_, i) => sampleBytes(MIB, 100 + i));
  const served = new Map(blobs.map((each) => [digestOf(each), each]));
  let asked = 0;
  const host = await startServer((request, response) => {
    asked++;
    const each = served.get((request.url ?? '').split('/').at(-1) as never) ?? Buffer.alloc(0);
    response.writeHead(200, { 'content-length': each.length }).end(each);
  });
  const client = makeClient([{ host, insecure: true }], new SystemClock());
  await Promise.all(
    [...served].map(async ([name, content]) => {
      const blob = { digest: name, sizeBytes: MIB, origin: { registry: host, repository: 'app' } };
      for (const offset of [0, 3 * BLOCK, BLOCK]) {
        const target = new Uint8Array(BLOCK);
        await client.readBlobInto(blob, offset, Scatter.of(target));
        expect(Buffer.from(target).equals(content.subarray(offset, offset + BLOCK))).toBe(true);
      }
    }),
  );
  expect(asked).toBeLessThanOrEqual(20 * 4);
});
