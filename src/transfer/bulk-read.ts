import { BLOCK_SIZE_BYTES, type BlobRef } from '../image/block.ts';
import { defined } from '../util/assert.ts';
import type { BlobReader, ReadKind } from './blob-reader.ts';

/**
 * Bytes that a bulk read asks for ahead of its consumer unless told otherwise: 32 blocks. The 8 stripes of a large blob come from up
 * to as many parents; four blocks under way at each keep all of them busy.
 */
export const READ_AHEAD_BYTES = 32 * BLOCK_SIZE_BYTES;

/** What to read of a blob, and how far ahead. */
export interface BulkRange {
  /** First byte, and number of bytes; the whole blob unless told otherwise. */
  readonly offset?: number;
  readonly length?: number;
  /** Most bytes under way or held for the consumer; one block is read whatever it says. */
  readonly windowBytes?: number;
  /** Longest wait in milliseconds for a piece that the consumer waits for; the reader's default when absent. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

/** A part of the range, a block at most, that was asked for. */
interface Piece {
  readonly offset: number;
  readonly length: number;
  readonly kind: ReadKind;
  readonly read: Promise<Uint8Array>;
  readonly abort: AbortController;
  state: 'pending' | 'read' | 'failed';
}

/**
 * Reads a range of a blob in order, in pieces of a block at most, each in memory of the consumer's own.
 *
 * Pieces ahead of the consumer are read as prefetches: every demand read of this host, and of those below it, goes first. Only the
 * one piece that the consumer waits for is a demand read. Consecutive blocks are of different stripes, so all trees of a large blob
 * carry at the same time. What is under way when the consumer returns early is cancelled.
 * Throws TransferError as `BlobReader.read()` does: `cancelled` when the signal aborts.
 */
export async function* readAhead(
  reader: BlobReader,
  blob: BlobRef,
  range: BulkRange = {},
): AsyncGenerator<Uint8Array, void, void> {
  const pieces = new PieceWindow(reader, blob, range);
  const onAbort = (): void => pieces.cancel();
  range.signal?.addEventListener('abort', onAbort, { once: true });
  try {
    while (pieces.fill()) yield await pieces.take();
  } finally {
    range.signal?.removeEventListener('abort', onAbort);
    pieces.cancel();
  }
}

/** The pieces that were asked for and not yet consumed, in order. */
class PieceWindow {
  readonly #reader: BlobReader;
  readonly #blob: BlobRef;
  readonly #range: BulkRange;
  readonly #end: number;
  readonly #windowBytes: number;
  /** The first one stays until it was read. */
  readonly #pieces: Piece[] = [];
  #askedTo: number;
  #sizeBytes = 0;

  constructor(reader: BlobReader, blob: BlobRef, range: BulkRange) {
    this.#reader = reader;
    this.#blob = blob;
    this.#range = range;
    this.#askedTo = range.offset ?? 0;
    this.#end = this.#askedTo + (range.length ?? blob.sizeBytes - this.#askedTo);
    this.#windowBytes = range.windowBytes ?? READ_AHEAD_BYTES;
  }

  /** Asks for what the window has room for; false at the end of the range. */
  fill(): boolean {
    while (this.#askedTo < this.#end) {
      const offset = this.#askedTo;
      const length = Math.min(BLOCK_SIZE_BYTES - (offset % BLOCK_SIZE_BYTES), this.#end - offset);
      const isHead = this.#pieces.length === 0;
      if (!isHead && this.#sizeBytes + length > this.#windowBytes) break;
      // The consumer waits for the first one already.
      this.#pieces.push(this.#ask(offset, length, isHead ? 'demand' : 'prefetch'));
      this.#askedTo += length;
      this.#sizeBytes += length;
    }
    return this.#pieces.length > 0;
  }

  /** The first piece. What has not come ahead is a demand read now, which joins the fetch under way. */
  async take(): Promise<Uint8Array> {
    let head = defined(this.#pieces[0], 'the window was filled');
    const aborted = this.#range.signal?.aborted === true;
    if ((head.kind === 'prefetch' && head.state !== 'read') || aborted) {
      const { offset, length, abort } = head;
      head = this.#pieces[0] = this.#ask(offset, length, 'demand');
      // Only now, so that the fetch always has somebody who waits for it.
      abort.abort();
    }
    const bytes = await head.read;
    this.#pieces.shift();
    this.#sizeBytes -= head.length;
    return bytes;
  }

  cancel(): void {
    for (const { abort } of this.#pieces) abort.abort();
  }

  #ask(offset: number, length: number, kind: ReadKind): Piece {
    const { signal, timeoutMs } = this.#range;
    const abort = new AbortController();
    if (signal?.aborted === true) abort.abort();
    const read = this.#reader.read(this.#blob, offset, length, {
      kind,
      signal: abort.signal,
      ...(kind === 'demand' && timeoutMs !== undefined && { timeoutMs }),
    });
    const piece: Piece = { offset, length, kind, state: 'pending', read, abort };
    const settle = (state: 'read' | 'failed'): void => {
      piece.state = state;
    };
    read.then(
      () => settle('read'),
      () => settle('failed'),
    );
    return piece;
  }
}
