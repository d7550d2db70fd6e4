import { describe, expect, it } from 'vitest';
import {
  BLOCK_SIZE_BYTES,
  blockCount,
  blockIndex,
  type BlobOrigin,
} from '../../../src/image/block.ts';
import { OriginError } from '../../../src/transfer/contracts/origin.ts';
import { OriginRuns } from '../../../src/transfer/drive/origin-runs.ts';
import { defined } from '../../../src/util/assert.ts';
import { BufferPool, type PooledBytes } from '../../../src/util/buffer-pool.ts';
import type { Scatter } from '../../../src/util/scatter.ts';
import { sampleBytes } from '../../kit/layers.ts';
import { ManualClock } from '../../kit/manual-clock.ts';

const SIZE = 40 * BLOCK_SIZE_BYTES + 100;
const bytes = sampleBytes(SIZE, 7);
const origin: BlobOrigin = { registry: 'r.test', repository: 'app' };
const blob = { digest: `sha256:${'ab'.repeat(32)}` as never, sizeBytes: SIZE, origin };

interface Asked {
  readonly offset: number;
  readonly target: Scatter;
  readonly signal: AbortSignal;
  readonly end: () => void;
  readonly fail: (error: Error) => void;
}

/** Runs whose origin is played by hand. */
class Rig {
  readonly asked: Asked[] = [];
  readonly came = new Map<number, PooledBytes>();
  readonly failed = new Map<number, unknown>();
  readonly progressed: (readonly number[])[] = [];
  readonly runs: OriginRuns;
  readonly clock = new ManualClock();
  readonly #aborts = new Map<number, AbortController>();

  constructor() {
    const readInto = (
      _blob: unknown,
      offset: number,
      target: Scatter,
      signal: AbortSignal,
    ): Promise<void> => {
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      signal.addEventListener('abort', () => reject(signal.reason as Error));
      this.asked.push({ offset, target, signal, end: resolve, fail: reject });
      return promise;
    };
    const pool = new BufferPool({ slabBytes: BLOCK_SIZE_BYTES, freeMax: 4, poison: true });
    this.runs = new OriginRuns(
      { origin: { readInto }, pool, clock: this.clock },
      { onProgress: (attempts) => this.progressed.push(attempts) },
    );
  }

  /** Wants these blocks, each with its index as the attempt. */
  async want(indices: readonly number[], isUrgent = false): Promise<this> {
    for (const index of indices) {
      const abort = new AbortController();
      this.#aborts.set(index, abort);
      const wanted = { attempt: index, blob, index: blockIndex(index), isUrgent };
      this.runs.read(wanted, abort.signal).then(
        (payload) => this.came.set(index, payload),
        (error: unknown) => this.failed.set(index, error),
      );
    }
    await settled();
    return this;
  }

  /** Time goes on. */
  async pass(ms: number): Promise<this> {
    this.clock.advance(ms);
    await settled();
    return this;
  }

  async giveUp(index: number): Promise<void> {
    this.#aborts.get(index)?.abort(new Error('not wanted'));
    await settled();
  }

  /** The request at this place sends `length` more bytes. */
  async send(at: number, length: number): Promise<void> {
    const { offset, target } = defined(this.asked[at], 'a request');
    const { filled } = target;
    target.write(filled, bytes.subarray(offset + filled, offset + filled + length));
    await settled();
  }

  async finish(at: number): Promise<void> {
    const { target, end } = defined(this.asked[at], 'a request');
    await this.send(at, target.length);
    end();
    await settled();
  }

  /** First block and number of blocks of each request. */
  get requests(): readonly (readonly [number, number])[] {
    return this.asked.map(({ offset, target }) => [
      offset / BLOCK_SIZE_BYTES,
      blockCount(target.length),
    ]);
  }

  check(): void {
    for (const [index, payload] of this.came) {
      const at = index * BLOCK_SIZE_BYTES;
      expect(Buffer.from(payload.bytes).equals(bytes.subarray(at, at + payload.length))).toBe(true);
    }
  }
}

async function settled(): Promise<void> {
  for (let i = 0; i < 20; i++) await Promise.resolve();
}

const range = (first: number, end: number): number[] =>
  Array.from({ length: end - first }, (_, i) => first + i);

describe('OriginRuns', () => {
  it('OriginRuns.read() asks for adjacent blocks at once, 4 MiB at a time', async () => {
    const rig = await new Rig().want([...range(0, 20), 30, ...range(39, 41)].toReversed());
    expect(rig.requests).toEqual([
      [0, 16],
      [39, 2],
    ]);
    await rig.pass(5);
    expect(rig.requests.slice(2)).toEqual([
      [16, 4],
      [30, 1],
    ]);
    for (const at of [0, 1, 2, 3]) await rig.finish(at);
    expect(rig.came.size).toBe(23);
    expect(rig.runs.count).toBe(0);
    rig.check();
  });

  it('OriginRuns.read() hands on each block once it is there, the last at the end', async () => {
    const rig = await (await new Rig().want(range(0, 3))).pass(5);
    await rig.send(0, BLOCK_SIZE_BYTES - 1);
    expect(rig.came.size).toBe(0);
    await rig.send(0, 2);
    expect([...rig.came.keys()]).toEqual([0]);
    expect(rig.progressed).toEqual([[1, 2]]);
    await rig.send(0, 2 * BLOCK_SIZE_BYTES);
    expect([...rig.came.keys()]).toEqual([0, 1]);
    rig.asked[0]?.end();
    await settled();
    expect([...rig.came.keys()]).toEqual([0, 1, 2]);
    rig.check();
  });

  it('OriginRuns.read() lets prefetches gather, but no demand', async () => {
    const rig = await new Rig().want(range(0, 12));
    for (const index of range(12, 23)) await (await rig.want([index])).pass(20);
    expect(rig.requests).toEqual([[0, 12]]);
    await rig.want([23]);
    expect(rig.requests).toEqual([
      [0, 12],
      [12, 12],
    ]);
    await rig.want(range(24, 28));
    await rig.want([30], true);
    rig.runs.promote(27);
    await settled();
    expect(rig.requests.slice(2)).toEqual([
      [30, 1],
      [27, 1],
    ]);
  });

  it('OriginRuns.read() waits for no further prefetch that does not come', async () => {
    const rig = await new Rig().want([0]);
    await rig.pass(4);
    await rig.want([1]);
    await rig.pass(4);
    expect(rig.requests).toEqual([]);
    await rig.pass(1);
    expect(rig.requests).toEqual([[0, 2]]);
    // Behind a request there is no haste; elsewhere in the blob nobody goes on.
    await rig.want([2, 20]);
    await rig.pass(5);
    expect(rig.requests.slice(1)).toEqual([[20, 1]]);
    await rig.pass(55);
    expect(rig.requests.slice(2)).toEqual([[2, 1]]);
  });

  it('OriginRuns.read() sends the end of a blob at once', async () => {
    const rig = await new Rig().want([40]);
    expect(rig.requests).toEqual([[40, 1]]);
    await rig.finish(0);
    rig.check();
  });

  it('OriginRuns.read() leaves no timer behind', async () => {
    const rig = await new Rig().want([3]);
    await rig.giveUp(3);
    expect(rig.clock.delays).toEqual([]);
    expect(rig.runs.count).toBe(0);
  });

  it('OriginRuns.read() begins a request with the block that something waits for', async () => {
    const rig = await new Rig().want([4, 5, 6]);
    rig.runs.promote(5);
    await settled();
    expect(rig.requests).toEqual([[5, 2]]);
  });

  it('OriginRuns.read() has four requests for prefetches of a blob in flight', async () => {
    const rig = await (await new Rig().want([0, 2, 4, 6, 8, 10])).pass(5);
    expect(rig.requests).toHaveLength(4);
    await rig.finish(1);
    expect(rig.requests.at(-1)).toEqual([8, 1]);
    await rig.want([20], true);
    expect(rig.requests.at(-1)).toEqual([20, 1]);
  });

  it('OriginRuns.read() that is given up leaves the others alone', async () => {
    const rig = await (await new Rig().want(range(0, 4))).pass(5);
    await rig.giveUp(1);
    expect(rig.failed.has(1)).toBe(true);
    await rig.send(0, 3 * BLOCK_SIZE_BYTES);
    expect([...rig.came.keys()]).toEqual([0, 2]);
    await rig.giveUp(3);
    expect(rig.asked[0]?.signal.aborted).toBe(true);
    rig.check();
    await (await rig.want([1])).pass(5);
    await rig.finish(1);
    rig.check();
    expect(rig.runs.count).toBe(0);
  });

  it('OriginRuns.read() keeps what came of a request that fails', async () => {
    const rig = await (await new Rig().want(range(0, 4))).pass(5);
    await rig.send(0, 2.5 * BLOCK_SIZE_BYTES);
    const error = new OriginError('cut', { code: 'unavailable' });
    rig.asked[0]?.fail(error);
    await settled();
    expect([...rig.came.keys()]).toEqual([0, 1]);
    expect([...rig.failed]).toEqual([
      [2, error],
      [3, error],
    ]);
    rig.check();
  });

  it.each([
    ['repository', { ...blob, origin: { ...origin, repository: 'evil' } }],
    ['storage', { ...blob, origin: { ...origin, storage: 'https://s.test/' } }],
    ['size', { ...blob, sizeBytes: SIZE + BLOCK_SIZE_BYTES }],
    ['own way', { ...blob, isOwnWay: true }],
  ])(
    'OriginRuns.read() asks where the blob is now while a read of another %s hangs',
    (_, other) => {
      const asked: unknown[] = [];
      const readInto = (from: unknown): Promise<void> => {
        asked.push(from);
        return new Promise(() => {});
      };
      const pool = new BufferPool({ slabBytes: BLOCK_SIZE_BYTES, freeMax: 4, poison: true });
      const parts = { origin: { readInto }, pool, clock: new ManualClock() };
      const runs = new OriginRuns(parts, { onProgress: () => {} });
      const { signal } = new AbortController();
      void runs.read({ attempt: 0, blob: other, index: blockIndex(0), isUrgent: true }, signal);
      void runs.read({ attempt: 1, blob, index: blockIndex(1), isUrgent: true }, signal);
      return settled().then(() => expect(asked).toEqual([other, blob]));
    },
  );
});
