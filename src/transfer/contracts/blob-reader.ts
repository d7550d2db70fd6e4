import type { BlobOrigin, BlobRef } from '../../image/block.ts';

/**
 * `demand`: something waits for the bytes. `prefetch`: nothing waits yet, and every demand read
 * goes first.
 */
export type ReadKind = 'demand' | 'prefetch';

/** How a blob is read: urgency, longest wait, and abort signal. */
export interface ReadOptions {
  readonly kind: ReadKind;
  /** Longest wait in milliseconds; the reader's default when absent. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
  /**
   * A definite no of the registry ends the read at once, for a client that can do something about
   * it. A device reads on until its deadline: an error would end its container.
   */
  readonly endsOnNo?: boolean;
}

/** Bytes of blobs, from any source: the devices and the HTTP endpoints read through it. */
export interface BlobReader {
  /**
   * Bytes [offset, offset + length) of the blob, verified, in memory of the caller's own.
   * Rejects with TransferError; the range must lie in the blob.
   */
  read(blob: BlobRef, offset: number, length: number, options: ReadOptions): Promise<Uint8Array>;
  /**
   * The same when all of it is in memory now, else undefined; a view that is valid until the caller
   * yields.
   */
  readCached(blob: BlobRef, offset: number, length: number): Uint8Array | undefined;
}

/** A blob that a host wants to read, and where the registry has it. */
export interface LocatedBlob {
  readonly blob: BlobRef;
  readonly origin: BlobOrigin;
}
