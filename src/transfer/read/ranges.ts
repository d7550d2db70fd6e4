import {
  BLOCK_SIZE_BYTES,
  blocksOfRange,
  type BlobRef,
  type BlockIndex,
} from '../../image/block.ts';
import type { ByteRange } from '../../image/byte-source.ts';
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

/**
 * A range that lies in a blob, put together from its blocks, which are read concurrently. `read`
 * hands a block to `use` while it holds it. Rejects with TransferError, `range`, when a block is
 * too short, and as `read` does.
 */
export async function readByBlocks(
  { offset, length }: ByteRange,
  read: (index: BlockIndex, use: (block: Uint8Array) => void) => Promise<void>,
): Promise<Uint8Array> {
  const target = new Uint8Array(length);
  if (length === 0) return target;
  await Promise.all(
    blocksOfRange(offset, length).map((index) =>
      read(index, (block) => copyOverlap(target, offset, block, index)),
    ),
  );
  return target;
}

/**
 * A range of a blob out of blocks in memory: a view of the only one, or else a copy. Undefined when
 * `peek` lacks one. Throws TransferError, `range`.
 */
export function cachedRange(
  blob: BlobRef,
  { offset, length }: ByteRange,
  peek: (index: BlockIndex) => Uint8Array | undefined,
): Uint8Array | undefined {
  checkRange(blob, offset, length);
  if (length === 0) return new Uint8Array(0);
  const indices = blocksOfRange(offset, length);
  const [first, second] = indices;
  if (first !== undefined && second === undefined) {
    const start = offset - first * BLOCK_SIZE_BYTES;
    return peek(first)?.subarray(start, start + length);
  }
  const target = new Uint8Array(length);
  for (const index of indices) {
    const block = peek(index);
    if (block === undefined) return undefined;
    copyOverlap(target, offset, block, index);
  }
  return target;
}
