import { describe, expect, it, onTestFinished } from 'vitest';
import { BLOCK_SIZE_BYTES } from '../../../src/image/block.ts';
import { BulkReader } from '../../../src/transfer/read/bulk-reader.ts';
import type { BlobReader, ReadOptions } from '../../../src/transfer/contracts/blob-reader.ts';
import { SystemClock } from '../../../src/runtime/node/clock.ts';
import { defined } from '../../../src/util/assert.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { sampleBytes } from '../../kit/layers.ts';
import { digestOf } from '../../kit/registry-content.ts';
import { Cluster, ORIGIN } from '../../kit/engine-cluster.ts';

const NEVER = new AbortController().signal;
const bytes = sampleBytes(40 * BLOCK_SIZE_BYTES + 5, 1);
const blob = { digest: digestOf(bytes), sizeBytes: bytes.length };

/** Bytes in memory. Reads that `onRead` holds back come when it resolves. */
class Twin implements BlobReader {
  readonly reads: { index: number; kind: string }[] = [];
  underWay = 0;
  underWayMax = 0;
  onRead: (index: number, options: ReadOptions) => Promise<void> = async () => {};

  async read(_: unknown, offset: number, length: number, options: ReadOptions) {
    const index = Math.floor(offset / BLOCK_SIZE_BYTES);
    this.reads.push({ index, kind: options.kind });
    this.underWayMax = Math.max(this.underWayMax, ++this.underWay);
    try {
      await this.onRead(index, options);
      return bytes.slice(offset, offset + length);
    } finally {
      this.underWay--;
    }
  }

  readCached(): undefined {
    return undefined;
  }
}

function rig() {
  const reader = new Twin();
  const clock = new ManualClock();
  return { reader, clock, bulk: new BulkReader({ reader, clock }) };
}

async function collect(pieces: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const all: Uint8Array[] = [];
  for await (const piece of pieces) all.push(piece);
  return Buffer.concat(all);
}

describe('BulkReader.read()', () => {
  it.each([
    [0, bytes.length],
    [0, 0],
    [5, 10],
    [BLOCK_SIZE_BYTES - 1, 2],
    [3 * BLOCK_SIZE_BYTES + 7, 20 * BLOCK_SIZE_BYTES],
  ])(
    'gives the bytes from %i on, %i of them, in order, as prefetches of a block',
    async (offset, length) => {
      const { reader, bulk } = rig();
      const got = await collect(bulk.read(blob, { offset, length }, NEVER));
      expect(got.equals(bytes.subarray(offset, offset + length))).toBe(true);
      expect(new Set(reader.reads.map(({ kind }) => kind)).size).toBeLessThanOrEqual(1);
      expect(reader.reads.every(({ kind }) => kind === 'prefetch')).toBe(true);
    },
  );

  it('is few blocks ahead of its consumer', async () => {
    const { reader, bulk } = rig();
    const pieces = bulk.read(blob, { offset: 0, length: bytes.length }, NEVER);
    for (let i = 0; i < 12; i++) await pieces.next();
    expect(reader.reads.length).toBe(24);
    // Further blocks are asked for together.
    await pieces.next();
    expect(reader.reads.length).toBe(36);
    await pieces.return(undefined);
  });

  it('asks again, on demand, for the next block alone when it fails or is late', async () => {
    const { reader, clock, bulk } = rig();
    const held = Promise.withResolvers<void>();
    reader.onRead = async (index, { kind }) => {
      if (kind === 'demand') return;
      if (index === 1) throw new Error('nobody has it');
      if (index === 2) await held.promise;
    };
    const pieces = bulk.read(blob, { offset: 0, length: bytes.length }, NEVER);
    await pieces.next();
    await pieces.next();
    const third = pieces.next();
    await Promise.resolve();
    clock.advance(2_000);
    const wanted = Buffer.from(bytes.subarray(2 * BLOCK_SIZE_BYTES, 3 * BLOCK_SIZE_BYTES));
    expect(wanted.equals((await third).value as Uint8Array)).toBe(true);
    const demands = reader.reads.filter(({ kind }) => kind === 'demand');
    expect(demands.map(({ index }) => index)).toEqual([1, 2]);
    held.resolve();
    await pieces.return(undefined);
  });

  it('gives up the reads in flight when its consumer leaves, or its signal aborts', async () => {
    const { reader, bulk } = rig();
    const signals: (AbortSignal | undefined)[] = [];
    reader.onRead = async (index, { signal }) => {
      signals.push(signal);
      if (index > 0) await new Promise(() => {});
    };
    const pieces = bulk.read(blob, { offset: 0, length: bytes.length }, NEVER);
    await pieces.next();
    await pieces.return(undefined);
    expect(signals.every((signal) => signal?.aborted === true)).toBe(true);
  });
});

describe('BulkReader beside demand reads', () => {
  it('leaves them room on a root and a child while its reads hang at the registry', async () => {
    const cluster = new Cluster();
    onTestFinished(() => cluster.stop());
    await cluster.start({ roots: 1, children: 1 });
    const { origin } = cluster;
    const large = Array.from({ length: 4 }, () => origin.add(20 * BLOCK_SIZE_BYTES));
    const hanging = new Set(large.map(({ digest }) => digest));
    const readInto = origin.readInto.bind(origin);
    const asked = Promise.withResolvers<void>();
    let hungBlocks = 0;
    origin.readInto = async (ref, offset, target) => {
      if (!hanging.has(ref.digest)) return readInto(ref, offset, target);
      // What may hang at the registry does.
      hungBlocks += Math.ceil(target.length / BLOCK_SIZE_BYTES);
      if (hungBlocks >= 24) asked.resolve();
      await new Promise(() => {});
    };
    const stop = new AbortController();
    const clock = new SystemClock();
    const [root, child] = [...cluster.roots, ...cluster.children];
    for (const node of [root, child]) {
      const { engine } = defined(node, 'started');
      await engine.tree.open(large.map((each) => ({ blob: each, origin: ORIGIN })));
      const bulk = new BulkReader({ reader: engine, clock });
      for (const each of large) {
        const range = { offset: 0, length: each.sizeBytes };
        collect(bulk.read(each, range, stop.signal)).catch(() => {});
      }
    }
    await asked.promise;
    for (const node of [root, child]) {
      const { engine } = defined(node, 'started');
      const small = origin.add(1000);
      await engine.tree.open([{ blob: small, origin: ORIGIN }]);
      const got = await engine.read(small, 0, 1000, { kind: 'demand' });
      expect(digestOf(got)).toBe(small.digest);
    }
    stop.abort();
  });
});
