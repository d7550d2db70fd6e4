import {
  blockLength,
  BLOCK_SIZE_BYTES,
  type BlobRef,
  type BlockIndex,
} from '../../../../src/image/block.ts';
import { testBlob } from '../../../kit/blocks.ts';

/** Blobs of one, two and three groups; the first two are one blob with another size. */
export const WRITTEN: readonly BlobRef[] = [
  testBlob(1, 70 * BLOCK_SIZE_BYTES + 5),
  testBlob(1, 69 * BLOCK_SIZE_BYTES),
  testBlob(2, 20 * BLOCK_SIZE_BYTES + 1),
  testBlob(3, 130 * BLOCK_SIZE_BYTES),
];

/** The bytes of a block: blob, size and index decide them. */
export function writtenBytes(blob: BlobRef, index: BlockIndex): Uint8Array {
  const bytes = new Uint8Array(blockLength(blob.sizeBytes, index));
  const seed =
    Number.parseInt(blob.digest.slice(7, 9), 16) * 1_000_003 + blob.sizeBytes + index * 7919;
  const words = new Uint32Array(bytes.buffer, 0, Math.floor(bytes.length / 4));
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(seed + i, 2654435761);
  for (let i = words.length * 4; i < bytes.length; i++) bytes[i] = seed + i;
  return bytes;
}
