import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BLOCK_SIZE_BYTES, type BlobRef } from '../../src/image/block.ts';
import type { BlobReader, ReadOptions } from '../../src/transfer/blob-reader.ts';
import { readAhead } from '../../src/transfer/bulk-read.ts';
import { TransferError } from '../../src/transfer/effects.ts';
import { defined } from '../../src/util/assert.ts';
import { bytesEqual } from '../../src/util/bytes.ts';
import { Cluster, ORIGIN } from './cluster.ts';
import { DIGEST } from './small-world.ts';

const BLOCK = BLOCK_SIZE_BYTES;
const BLOB: BlobRef = { digest: DIGEST, sizeBytes: 10 * BLOCK + 100 };

/** A read that the twin was asked for; the test answers it, unless `answers` is set. */
interface AskedRead {
  readonly offset: number;
  readonly length: number;
  readonly options: ReadOptions;
  answer(): void;
  fail(code: 'deadline' | 'cancelled'): void;
}

class ReaderTwin implements BlobReader {
  readonly asked: AskedRead[] = [];
  answers = false;

  read(_blob: BlobRef, offset: number, length: number, options: ReadOptions): Promise<Uint8Array> {
    const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>();
    const read: AskedRead = {
      offset,
      length,
      options,
      answer: () => resolve(new Uint8Array(length).fill(Math.floor(offset / BLOCK))),
      fail: (code) => {
        const detail = code === 'deadline' ? { code, waitedMs: 1 } : { code };
        reject(new TransferError(code, detail));
      },
    };
    this.asked.push(read);
    const onAbort = (): void => read.fail('cancelled');
    if (options.signal?.aborted === true) onAbort();
    options.signal?.addEventListener('abort', onAbort);
    if (this.answers) read.answer();
    return promise;
  }

  readCached(): undefined {
    return undefined;
  }

  /** What was asked from the nth read on, such as `prefetch 3`. */
  log(from = 0): readonly string[] {
    return this.asked
      .slice(from)
      .map(({ offset, options }) => `${options.kind} ${Math.floor(offset / BLOCK)}`);
  }

  get(nth: number): AskedRead {
    return defined(this.asked[nth], 'a read');
  }
}

async function all(pieces: AsyncIterable<Uint8Array>): Promise<readonly Uint8Array[]> {
  const list: Uint8Array[] = [];
  for await (const piece of pieces) list.push(piece);
  return list;
}

describe('readAhead()', () => {
  it('gives the range in order, in pieces that end with their blocks', async () => {
    const reader = new ReaderTwin();
    reader.answers = true;
    const lengths: number[] = [];
    const range = { offset: BLOCK - 10, length: 2 * BLOCK + 30 };
    for await (const piece of readAhead(reader, BLOB, range)) lengths.push(piece.length);
    expect(lengths).toEqual([10, BLOCK, BLOCK, 20]);
    expect(reader.asked[0]).toMatchObject({ offset: BLOCK - 10, length: 10 });
    let sizeBytes = 0;
    for await (const piece of readAhead(reader, BLOB)) sizeBytes += piece.length;
    expect(sizeBytes).toBe(BLOB.sizeBytes);
    const none = await all(readAhead(reader, BLOB, { offset: 5, length: 0 }));
    expect(none).toEqual([]);
  });

  it('asks for no more than the window, and for one piece at a time as a demand read', async () => {
    const reader = new ReaderTwin();
    const pieces = readAhead(reader, BLOB, { windowBytes: 3 * BLOCK, timeoutMs: 77 });
    const first = pieces.next();
    expect(reader.log()).toEqual(['demand 0', 'prefetch 1', 'prefetch 2']);
    reader.get(0).answer();
    expect((await first).value?.[0]).toBe(0);
    // The consumer is busy: nothing is asked, however much has come.
    reader.get(1).answer();
    await Promise.resolve();
    expect(reader.asked).toHaveLength(3);
    expect((await pieces.next()).value?.[0]).toBe(1);
    const third = pieces.next();
    expect(reader.log(3)).toEqual(['prefetch 3', 'prefetch 4', 'demand 2']);
    expect(reader.get(5).options.timeoutMs).toBe(77);
    expect(reader.get(2).options.signal?.aborted).toBe(true);
    reader.get(5).answer();
    expect((await third).value?.[0]).toBe(2);
    await pieces.return();
  });

  it('reads one piece at a time when the window is smaller than a block', async () => {
    const reader = new ReaderTwin();
    reader.answers = true;
    const pieces = readAhead(reader, BLOB, { windowBytes: 1 });
    await pieces.next();
    await pieces.next();
    expect(reader.log()).toEqual(['demand 0', 'demand 1']);
    await pieces.return();
  });

  it('reads a piece anew, as a demand read, when it could not be had ahead', async () => {
    const reader = new ReaderTwin();
    const pieces = readAhead(reader, BLOB, { windowBytes: 2 * BLOCK });
    const first = pieces.next();
    reader.get(1).fail('deadline');
    reader.get(0).answer();
    await first;
    const second = pieces.next();
    expect(reader.log(2)).toEqual(['prefetch 2', 'demand 1']);
    reader.get(3).fail('deadline');
    await expect(second).rejects.toMatchObject({ code: 'deadline' });
    expect(reader.get(2).options.signal?.aborted).toBe(true);
  });

  it('cancels what is under way when the consumer returns, and when the signal aborts', async () => {
    const left = new ReaderTwin();
    for await (const _ of (left.answers = true) && readAhead(left, BLOB)) break;
    expect(left.asked.slice(1).every(({ options }) => options.signal?.aborted)).toBe(true);
    const reader = new ReaderTwin();
    const abort = new AbortController();
    const pieces = readAhead(reader, BLOB, { signal: abort.signal });
    const first = pieces.next();
    abort.abort();
    await expect(first).rejects.toMatchObject({ code: 'cancelled' });
    expect(reader.asked.every(({ options }) => options.signal?.aborted)).toBe(true);
    expect(await pieces.next()).toEqual({ done: true, value: undefined });
  });

  it('gives nothing after an abort, though it has come', async () => {
    const reader = new ReaderTwin();
    const abort = new AbortController();
    reader.answers = true;
    const pieces = readAhead(reader, BLOB, { signal: abort.signal });
    await pieces.next();
    abort.abort();
    await expect(pieces.next()).rejects.toMatchObject({ code: 'cancelled' });
  });
});

describe('readAhead() over engines', () => {
  let cluster: Cluster;
  beforeEach(async () => {
    cluster = new Cluster();
    await cluster.start({ roots: 1, children: 2 });
  });
  afterEach(() => cluster.stop());

  it('gives right bytes of a striped blob, each block from the registry once', async () => {
    const blob = cluster.origin.add(40 * BLOCK + 17);
    const bytes = defined(cluster.origin.blobs.get(blob.digest), 'the blob');
    await Promise.all(
      cluster.children.map(async ({ engine }) => {
        await engine.tree.open([{ blob, origin: ORIGIN }]);
        const pieces = await all(readAhead(engine, blob));
        expect(bytesEqual(Buffer.concat(pieces), bytes)).toBe(true);
      }),
    );
    expect(cluster.origin.bytes).toBe(blob.sizeBytes);
  });

  it('lets a demand read of another host overtake all that it has asked for ahead', async () => {
    const bulk = cluster.origin.add(100 * BLOCK);
    const other = cluster.origin.add(BLOCK);
    const gate = gateOf(cluster);
    const [reader, container] = cluster.children.map(({ engine }) => engine);
    await defined(reader, 'a child').tree.open([{ blob: bulk, origin: ORIGIN }]);
    await defined(container, 'a child').tree.open([{ blob: other, origin: ORIGIN }]);
    const windowBytes = 64 * BLOCK;
    const pieces = readAhead(defined(reader, 'a child'), bulk, { windowBytes });
    const first = pieces.next();
    // One demand read and the prefetches that a peer takes; the other 55 wait at the reader.
    await gate.asked(9);
    expect(gate.log).toHaveLength(9);
    const read = defined(container, 'a child').read(other, 0, BLOCK, { kind: 'demand' });
    await gate.asked(10);
    expect(gate.log[9]).toBe(other.digest);
    gate.open();
    expect(await read).toHaveLength(BLOCK);
    expect((await first).value).toHaveLength(BLOCK);
    await pieces.return();
  });

  it('lets a demand read of the same host overtake all that it has asked for ahead', async () => {
    const bulk = cluster.origin.add(100 * BLOCK);
    const gate = gateOf(cluster);
    const { engine } = defined(cluster.children[0], 'a child');
    await engine.tree.open([{ blob: bulk, origin: ORIGIN }]);
    const pieces = readAhead(engine, bulk, { windowBytes: 64 * BLOCK });
    const first = pieces.next();
    await gate.asked(9);
    const read = engine.read(bulk, 99 * BLOCK, BLOCK, { kind: 'demand' });
    await gate.asked(10);
    expect(gate.offsets[9]).toBe(99 * BLOCK);
    gate.open();
    expect(await read).toHaveLength(BLOCK);
    await first;
    await pieces.return();
  });
});

/** Holds the registry's answers back, and tells in which order it was asked. */
function gateOf(cluster: Cluster) {
  const { origin } = cluster;
  const log: string[] = [];
  const offsets: number[] = [];
  const opened = Promise.withResolvers<void>();
  const waiting: { count: number; resolve: () => void }[] = [];
  const readInto = origin.readInto.bind(origin);
  origin.readInto = async (blob, offset, target) => {
    log.push(blob.digest);
    offsets.push(offset);
    for (const { count, resolve } of waiting) if (log.length >= count) resolve();
    await opened.promise;
    await readInto(blob, offset, target);
  };
  return {
    log,
    offsets,
    open: (): void => opened.resolve(),
    asked: (count: number): Promise<void> => {
      const { promise, resolve } = Promise.withResolvers<void>();
      if (log.length >= count) resolve();
      waiting.push({ count, resolve });
      return promise;
    },
  };
}
