import type { Attestation } from '../image/attestation.ts';
import type { BlobRef, BlockIndex } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import type { PooledBytes } from '../util/buffer-pool.ts';

/** A verified block as it is kept. Whoever gets one releases its bytes. */
export interface StoredBlock {
  readonly payload: PooledBytes;
  readonly attestation: Attestation;
}

export interface BlockStoreStats {
  readonly blobCount: number;
  readonly blockCount: number;
  readonly sizeBytes: number;
}

/**
 * Blocks of blobs on this host.
 *
 * Life: constructed -> `start()` (finds what an earlier run kept) -> used -> `stop()` (everything accepted is durable).
 * A block is present only when it was written whole: a crash at any point loses blocks at worst, never yields a torn one.
 * Errors: `BlockStoreError`; a missing block is not an error.
 */
export interface BlockStore {
  start(): Promise<void>;
  stop(): Promise<void>;
  /** Whether the block is present: answered from memory, in the same step. */
  has(digest: Digest, index: BlockIndex): boolean;
  /** The block, or undefined when absent (also when it was lost meanwhile). The caller releases the payload. */
  get(blob: BlobRef, index: BlockIndex): Promise<StoredBlock | undefined>;
  /** Keeps a verified block. Holds the payload itself for as long as it needs it. A block already present is left alone. */
  put(blob: BlobRef, index: BlockIndex, block: StoredBlock): Promise<void>;
  /** Forgets a block, for instance one that was found damaged. */
  drop(digest: Digest, index: BlockIndex): Promise<void>;
  /** Blobs with any block present, with their sizes. */
  blobs(): readonly BlobRef[];
  /** Indices of the present blocks of a blob, ascending. */
  blocksOf(digest: Digest): readonly BlockIndex[];
  stats(): BlockStoreStats;
}
