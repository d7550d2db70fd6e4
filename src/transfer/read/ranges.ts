import { BLOCK_SIZE_BYTES, type BlobRef, type BlockIndex } from '../../image/block.ts';
import { TransferError } from '../contracts/errors.ts';

/** Throws TransferError, `range`, unless the range lies in the blob. */
export function checkRange(blob: BlobRef, offset: number, length: number): void {
  if (offset >= 0 && length >= 0 && offset + length <= blob.sizeBytes) return;
  throw new TransferError(
    `range ${offset}+${length} is not in blob ${blob.digest} of ${blob.sizeBytes} bytes`,
    { code: 'range' },
  );
}

/**
 * Copies the part of a block that lies in the range starting at `offset` of the blob. Throws
 * TransferError, `range`, when the block ends before its part of the range does: the missing bytes
 * would be sent as zeros.
 */
export function copyOverlap(
  target: Uint8Array,
  offset: number,
  block: Uint8Array,
  index: BlockIndex,
): void {
  const blockStart = index * BLOCK_SIZE_BYTES;
  const from = Math.max(offset, blockStart);
  const to = Math.min(offset + target.length, blockStart + BLOCK_SIZE_BYTES);
  if (to - blockStart > block.length) {
    throw new TransferError(
      `block ${index} has ${block.length} bytes, and the range needs ${to - blockStart}`,
      { code: 'range' },
    );
  }
  target.set(block.subarray(from - blockStart, to - blockStart), from - offset);
}
