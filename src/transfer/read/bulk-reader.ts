import { BLOCK_SIZE_BYTES, type BlobRef } from '../../image/block.ts';
import type { Clock } from '../../runtime/clock.ts';
import { within } from '../../runtime/deadline.ts';
import { orAbort } from '../../util/or-abort.ts';
import type { BlobReader } from '../contracts/blob-reader.ts';

/** Blocks that one reader is ahead, when it is alone: 6 MiB. */
const AHEAD_BLOCKS_MAX = 24;
const AHEAD_BLOCKS_MIN = 2;

/**
 * Blocks that a reader asks for together, so that a root reads them by one request: 3 MiB. Fewer
 * when it may not be so far ahead.
 */
const BATCH_BLOCKS_MAX = 12;

/** Blocks that all readers of a host are ahead together: 64 MiB. */
const AHEAD_BLOCKS_IN_ALL = 256;

/**
 * The next block is asked for as by a waiting program when it does not come for this long for each
 * bulk read of the host, or the maximum. So the bulk reads of a host go on together at 128 KiB/s,
 * whatever else does.
 */
const PATIENCE_MS = 2_000;
const PATIENCE_MS_MAX = 8_000;

/**
 * The patience and the demand read together are below the time of an answer
 * (edge/mirror/endpoint.ts): the error of the read says more than that of the answer.
 */
const BLOCK_MS_MAX = 28_000;

/** Bytes [offset, offset + length) of a blob. */
interface Range {
  readonly offset: number;
  readonly length: number;
}

interface Ahead extends Range {
  /** Undefined when the block did not come: it is asked for again once it is next. */
  readonly bytes: Promise<Uint8Array | undefined>;
}

/**
 * Reads much of a blob in order, for a reader that wants all of it: several blocks ahead, over all
 * stripes, behind every demand read at every hop. The touches of such a read say nothing about what
 * a container touches first, so no host is told of them.
 */
export class BulkReader {
  readonly #reader: BlobReader;
  readonly #clock: Clock;
  #running = 0;

  constructor(components: { readonly reader: BlobReader; readonly clock: Clock }) {
    this.#reader = components.reader;
    this.#clock = components.clock;
  }

  /**
   * Verified pieces of at most a block, each in memory of the caller's own. Throws TransferError,
   * 28 s after the last piece at the latest.
   */
  async *read(blob: BlobRef, range: Range, signal: AbortSignal): AsyncGenerator<Uint8Array> {
    const left = new AbortController();
    const either = AbortSignal.any([signal, left.signal]);
    const end = range.offset + range.length;
    const ahead: Ahead[] = [];
    let next = range.offset;
    this.#running++;
    try {
      while (next < end || ahead.length > 0) {
        const aheadMax = this.#aheadMax();
        const mayAsk = ahead.length <= aheadMax - Math.min(BATCH_BLOCKS_MAX, aheadMax / 2);
        while (mayAsk && next < end && ahead.length < aheadMax) {
          const blockEnd = next - (next % BLOCK_SIZE_BYTES) + BLOCK_SIZE_BYTES;
          const length = Math.min(end, blockEnd) - next;
          ahead.push(this.#begin(blob, { offset: next, length }, either));
          next += length;
        }
        const piece = ahead.shift();
        if (piece !== undefined) yield await this.#finish(blob, piece, either);
      }
    } finally {
      this.#running--;
      left.abort();
    }
  }

  #aheadMax(): number {
    const share = Math.floor(AHEAD_BLOCKS_IN_ALL / this.#running);
    return Math.max(AHEAD_BLOCKS_MIN, Math.min(AHEAD_BLOCKS_MAX, share));
  }

  #begin(blob: BlobRef, { offset, length }: Range, signal: AbortSignal): Ahead {
    const read = this.#reader.read(blob, offset, length, { kind: 'prefetch', signal });
    return { offset, length, bytes: read.catch(() => undefined) };
  }

  async #finish(blob: BlobRef, piece: Ahead, signal: AbortSignal): Promise<Uint8Array> {
    const patienceMs = Math.min(PATIENCE_MS_MAX, PATIENCE_MS * this.#running);
    const come = within(this.#clock, patienceMs, (late) => orAbort(piece.bytes, late));
    const bytes = await come.catch(() => undefined);
    if (bytes !== undefined) return bytes;
    // This turns a prefetch of the block in flight into a demand read, here and at every hop.
    const timeoutMs = BLOCK_MS_MAX - patienceMs;
    const options = { kind: 'demand', timeoutMs, signal, endsOnNo: true } as const;
    return this.#reader.read(blob, piece.offset, piece.length, options);
  }
}
