import { blockCount, blockLength, type BlobRef, type BlockIndex } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import { DiskError } from '../runtime/disk.ts';
import { CodedError, errorText } from '../util/errors.ts';

/**
 * Why an operation of the store failed.
 *
 * - `busy`: the queue of writes or reads is full. Continue without the store.
 * - `no-space`, `read-only`, `io`: a disk error. Blocks in the store can still be read.
 * - `quota`: the quota is full of blocks in use, or of a higher class than the block.
 * - `size-mismatch`: the store has the blob with another size: one of two sources is wrong.
 * - `invalid-block`: the blob has no block of that index or length.
 * - `too-many-blobs`, `too-many-pins`: the store has as many as it can hold.
 * - `stopped`: the call came before `start()` or after `stop()`.
 * - `version`: the folder has the format of another version. `locked`: another process uses the
 *   folder.
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

/** What a caller asks of the store, as metrics name it. */
export type StoreOperation = 'put' | 'get' | 'drop' | 'pin' | 'evict';

/** The operations in words. */
export const OPERATION_WORDS: Readonly<Record<StoreOperation, string>> = {
  put: 'put a block',
  get: 'get a block',
  drop: 'drop a block',
  pin: 'save the list of pinned blobs',
  evict: 'evict blocks',
};

/** An operation of the store that failed. */
export class BlockStoreError extends CodedError<BlockStoreErrorDetail> {}

/** Turns a DiskError into a BlockStoreError; gives any other value back unchanged. */
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

/**
 * Throws `invalid-block` unless the blob has a block of this index and length: a peer may have
 * named them.
 */
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

/** Throws `size-mismatch` unless both sizes of the blob agree. */
export function checkSize(known: BlobRef, asked: BlobRef): void {
  if (known.sizeBytes !== asked.sizeBytes) {
    throw sizeMismatch(asked.digest, known.sizeBytes, asked.sizeBytes);
  }
}

/** For a full queue: what the store cannot do, and which limit it has reached. */
export function busyError(what: string, limit: string): BlockStoreError {
  return new BlockStoreError(`the block store is busy: cannot ${what}, ${limit}`, { code: 'busy' });
}

/** For a block that the quota has no room for. */
export function quotaError(blob: BlobRef, quotaBytes: number): BlockStoreError {
  return new BlockStoreError(
    `cannot keep a block of ${blob.digest}: ` +
      `blocks that are kept longer fill the quota of ${quotaBytes} bytes (store.quota)`,
    { code: 'quota', quotaBytes },
  );
}

/** For a block of a blob beyond the most blobs of a store. */
export function tooManyBlobs(digest: Digest, blobsMax: number): BlockStoreError {
  const text = `cannot keep blocks of ${digest}: the block store already holds ${blobsMax} blobs`;
  return new BlockStoreError(text, { code: 'too-many-blobs' });
}

/** For a pin beyond the most pins of a store. */
export function tooManyPins(digest: Digest, pinsMax: number): BlockStoreError {
  return new BlockStoreError(
    `cannot pin ${digest}: ${pinsMax} blobs are already pinned; unpin some`,
    {
      code: 'too-many-pins',
    },
  );
}

function sizeMismatch(digest: Digest, knownSizeBytes: number, sizeBytes: number): BlockStoreError {
  return new BlockStoreError(
    `cannot keep blocks of ${digest} as a blob of ${sizeBytes} bytes: ` +
      `the store has it with ${knownSizeBytes}`,
    { code: 'size-mismatch', digest, knownSizeBytes },
  );
}

/** For a call while the store is not running. */
export function stoppedError(): BlockStoreError {
  return new BlockStoreError('the block store is not running', { code: 'stopped' });
}
