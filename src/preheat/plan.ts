import { blockCount, blockIndex, blockLength, type BlobRef } from '../image/block.ts';
import type { PlannedBlock } from '../transfer/read/traced-blocks.ts';

/**
 * All blocks of the blobs, all blobs at one pace, so that all their trees carry at the same time
 * (docs/TREES.md). A generator, since an image may have millions of blocks.
 */
export function* wholeImage(blobs: readonly BlobRef[]): Generator<PlannedBlock, void, void> {
  const rows = blobs.map((blob) => ({ blob, next: 0, count: blockCount(blob.sizeBytes) }));
  for (;;) {
    let first: (typeof rows)[number] | undefined;
    for (const row of rows) {
      if (row.next === row.count) continue;
      if (first === undefined || row.next / row.count < first.next / first.count) first = row;
    }
    if (first === undefined) return;
    yield { blob: first.blob, index: blockIndex(first.next++) };
  }
}

/** Bytes of the block; the last block of a blob may be shorter than the others. */
export function bytesOf(blocks: readonly PlannedBlock[]): number {
  return blocks.reduce((sum, { blob, index }) => sum + blockLength(blob.sizeBytes, index), 0);
}
