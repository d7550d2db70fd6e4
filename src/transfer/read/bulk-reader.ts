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

/** What all readers of a host are ahead together: 64 MiB. */
const AHEAD_BLOCKS_IN_ALL = 256;

/**
 * A block that is next, and does not come for this long, is asked for as by a program that waits:
 * at 128 KiB/s bulk reads go on whatever else does.
 */
const PATIENCE_MS = 2_000;

/**
 * With the patience below the time that an answer has (edge/mirror/endpoint.ts): the error of the
 * read says more than that of the answer.
 */
const DEMAND_MS_MAX = 26_000;

/** Bytes [offset, offset + length) of a blob. */
interface Range {
  readonly offset: number;
  readonly length: number;
}

interface Ahead extends Range {
  /** Undefined when it did not come: it is asked for again once it is next. */
  readonly bytes: Promise<Uint8Array | undefined>;
}

/**
 * Reads much of a blob in order, for somebody who wants all of it: several blocks ahead, over all
 * stripes, behind every demand read at every hop. What such a read touches says nothing about what
 * a container touches first, and nobody is told.
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
   * Verified pieces of a block at most, each in memory of the caller's own. Throws TransferError,
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
    // A prefetch of the block under way becomes a demand read by this, here and at every hop.
    const options = { kind: 'demand', timeoutMs: DEMAND_MS_MAX, signal } as const;
    return this.#reader.read(blob, piece.offset, piece.length, options);
  }
}
