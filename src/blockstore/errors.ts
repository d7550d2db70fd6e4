import { blockCount, blockLength, type BlobRef, type BlockIndex } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import { DiskError } from '../runtime/disk.ts';
import { CodedError, errorText } from '../util/errors.ts';

/**
 * Why the store refused.
 *
 * - `busy`: as much is waiting to be written or read as the store takes; go on without it.
 * - `no-space`, `read-only`, `io`: the disk's word. What is present can still be read.
 * - `quota`: full of what is in use, or of a higher class than the block.
 * - `size-mismatch`: the blob is kept with another size: of two sources one is wrong.
 * - `invalid-block`: no block of this blob has that index or that length.
 * - `too-many-blobs`, `too-many-pins`: the store keeps no more of them.
 * - `stopped`: used before `start()` or after `stop()`.
 * - `version`: the folder was written by a version that this one does not know; `locked`: another process uses it.
 */
export type BlockStoreErrorDetail =
  | { readonly code: 'busy' }
  | { readonly code: 'no-space' }
  | { readonly code: 'read-only' }
  | { readonly code: 'io' }
  | { readonly code: 'quota'; readonly quotaBytes: number }
  | { readonly code: 'size-mismatch'; readonly digest: Digest; readonly knownSizeBytes: number }
  | { readonly code: 'invalid-block' }
  | { readonly code: 'too-many-blobs' }
  | { readonly code: 'too-many-pins' }
  | { readonly code: 'stopped' }
  | { readonly code: 'version'; readonly found: string }
  | { readonly code: 'locked' };

export class BlockStoreError extends CodedError<BlockStoreErrorDetail> {}

/** A disk's refusal in the terms of the store; anything else as it is. */
export function storeError(what: string, cause: unknown): unknown {
  if (!(cause instanceof DiskError)) return cause;
  return new BlockStoreError(
    `${what}: ${errorText(cause)}`,
    { code: storeCode(cause.code) },
    { cause },
  );
}

function storeCode(code: DiskError['code']): 'no-space' | 'read-only' | 'locked' | 'io' {
  switch (code) {
    case 'no-space':
    case 'read-only':
    case 'locked':
    case 'io':
      return code;
    case 'not-found':
    case 'exists':
    case 'denied':
    case 'too-many-files':
      return 'io';
  }
}

/** Throws unless the blob has a block of this index and length: both may come from the word of a peer. */
export function checkBlock(blob: BlobRef, index: BlockIndex, lengthBytes: number): void {
  const count = blockCount(blob.sizeBytes);
  const inRange = Number.isInteger(index) && index >= 0 && index < count;
  if (inRange && lengthBytes === blockLength(blob.sizeBytes, index)) return;
  throw new BlockStoreError(
    `cannot keep ${lengthBytes} bytes as block ${index} of ${blob.digest}: ` +
      `it has ${blob.sizeBytes} bytes in ${count} blocks`,
    { code: 'invalid-block' },
  );
}

/** Throws unless both speak of the same size. */
export function checkSize(known: BlobRef, asked: BlobRef): void {
  if (known.sizeBytes !== asked.sizeBytes) {
    throw sizeMismatch(asked.digest, known.sizeBytes, asked.sizeBytes);
  }
}

export function busyError(what: string, limit: string): BlockStoreError {
  return new BlockStoreError(`the block store is busy: cannot ${what}, ${limit}`, { code: 'busy' });
}

export function quotaError(blob: BlobRef, quotaBytes: number): BlockStoreError {
  return new BlockStoreError(
    `cannot keep a block of ${blob.digest}: the quota of ${quotaBytes} bytes (store.quota) is full of blocks that are kept longer`,
    { code: 'quota', quotaBytes },
  );
}

export function tooManyPins(digest: Digest, pinsMax: number): BlockStoreError {
  return new BlockStoreError(`cannot pin ${digest}: ${pinsMax} blobs are pinned; unpin some`, {
    code: 'too-many-pins',
  });
}

function sizeMismatch(digest: Digest, knownSizeBytes: number, sizeBytes: number): BlockStoreError {
  return new BlockStoreError(
    `cannot keep blocks of ${digest} as a blob of ${sizeBytes} bytes: it is kept with ${knownSizeBytes}`,
    { code: 'size-mismatch', digest, knownSizeBytes },
  );
}

export function stoppedError(): BlockStoreError {
  return new BlockStoreError('the block store is not running', { code: 'stopped' });
}
