import { BLOCK_SIZE_BYTES, type BlobRef } from '../../image/block.ts';
import type { Clock } from '../../runtime/clock.ts';
import { within } from '../../runtime/deadline.ts';
import { orAbort } from '../../util/or-abort.ts';
import type { BlobReader } from '../contracts/blob-reader.ts';

/**
 * Blocks that one reader is ahead, when it is alone: 4 MiB, two windows of prefetches at one parent
 * (CORE_DEFAULTS.peerPrefetchMax).
 */
const AHEAD_BLOCKS_MAX = 16;
const AHEAD_BLOCKS_MIN = 2;

/** Blocks that all readers of a host are ahead together: 64 MiB. */
const AHEAD_BLOCKS_IN_ALL = 256;

/**
 * The next block is asked for as by a waiting program when it does not come for this long. So bulk
 * reads go on at 128 KiB/s, whatever else does.
 */
const PATIENCE_MS = 2_000;

/**
 * Together with the patience below the time of an answer (edge/mirror/endpoint.ts): the error of
 * the read says more than that of the answer.
 */
const DEMAND_MS_MAX = 26_000;

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
        while (next < end && ahead.length < this.#aheadMax()) {
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
    const come = within(this.#clock, PATIENCE_MS, (late) => orAbort(piece.bytes, late));
    const bytes = await come.catch(() => undefined);
    if (bytes !== undefined) return bytes;
    // This turns a prefetch of the block in flight into a demand read, here and at every hop.
    const options = { kind: 'demand', timeoutMs: DEMAND_MS_MAX, signal, endsOnNo: true } as const;
    return this.#reader.read(blob, piece.offset, piece.length, options);
  }
}
