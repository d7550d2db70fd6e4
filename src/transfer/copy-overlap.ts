import { BLOCK_SIZE_BYTES, type BlockIndex } from '../image/block.ts';

/** Copies the part of a block that lies in the range starting at `offset` of the blob. */
export function copyOverlap(
  target: Uint8Array,
  offset: number,
  block: Uint8Array,
  index: BlockIndex,
): void {
  const blockStart = index * BLOCK_SIZE_BYTES;
  const from = Math.max(offset, blockStart);
  const to = Math.min(offset + target.length, blockStart + block.length);
  target.set(block.subarray(from - blockStart, to - blockStart), from - offset);
}
