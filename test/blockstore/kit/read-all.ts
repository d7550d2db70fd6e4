import { expect } from 'vitest';
import type { BlockStore } from '../../../src/blockstore/store.ts';
import type { BlobRef } from '../../../src/image/block.ts';
import { testBlock, testBytes } from '../../kit/blocks.ts';

/**
 * Reads every block that the store lists, and expects its right bytes. Returns the names of the
 * found blocks, and of the listed but missing blocks.
 */
export async function readAll(
  store: BlockStore,
  blobs: readonly BlobRef[],
): Promise<{ found: Set<string>; lost: Set<string> }> {
  const [found, lost] = [new Set<string>(), new Set<string>()];
  for (const blob of blobs) {
    for (const index of store.blocksOf(blob.digest)) {
      const block = await store.get(blob, index);
      if (block === undefined) {
        lost.add(blockName(blob, index));
        continue;
      }
      expect(Buffer.compare(block.payload.bytes, testBytes(blob, index))).toBe(0);
      expect(block.attestation).toEqual(testBlock(blob, index).attestation);
      block.payload.release();
      found.add(blockName(blob, index));
    }
  }
  return { found, lost };
}

/** A short name of a block of the test blobs. */
export function blockName(blob: BlobRef, index: number): string {
  return `${blob.digest.slice(7, 9)}/${index}`;
}
