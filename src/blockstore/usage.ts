import type { BlobRef } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import type { GroupTable } from './group-table.ts';
import type { BlobUsage } from './store.ts';

/**
 * How much a store holds of these blobs, and of pinned blobs without blocks: most recently used
 * first.
 */
export function usageOf(table: GroupTable, blobs: readonly BlobRef[]): BlobUsage[] {
  const sizes = new Map<Digest, number>(blobs.map((blob) => [blob.digest, blob.sizeBytes]));
  const digests = new Set([...sizes.keys(), ...table.pins]);
  const rows = Array.from(digests, (digest): BlobUsage => {
    const { blockCount, sizeBytes: heldBytes, lastUseMs } = table.totals(digest);
    const sizeBytes = sizes.get(digest);
    return {
      digest,
      ...(sizeBytes !== undefined && { sizeBytes }),
      heldBytes,
      blockCount,
      keep: table.keepOf(digest),
      pinned: table.pins.has(digest),
      mounted: table.isMounted(digest),
      ...(lastUseMs !== undefined && { lastUseMs }),
    };
  });
  return rows.sort((a, b) => (b.lastUseMs ?? 0) - (a.lastUseMs ?? 0));
}
