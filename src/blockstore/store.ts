import type { Attestation } from '../image/attestation.ts';
import type { BlobRef, BlockIndex } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import type { PooledBytes } from '../util/buffer-pool.ts';

/** A verified block as it is kept. Whoever gets one releases its bytes. */
export interface StoredBlock {
  readonly payload: PooledBytes;
  readonly attestation: Attestation;
  /** BLAKE3 of the payload, where it is known: `put()` need not compute it then. */
  readonly blockDigest?: Uint8Array;
}

export interface BlockStoreStats {
  readonly blobCount: number;
  readonly blockCount: number;
  readonly sizeBytes: number;
}

/** How long the store keeps a blob: all of a class go before any of the next. A block never pushes out one of a higher class. */
export type KeepClass = 'plain' | 'mounted' | 'pinned';

/** What the store has of a blob, and why it keeps it. */
export interface BlobUsage {
  readonly digest: Digest;
  /** Of the whole blob; absent when nothing of it is held. */
  readonly sizeBytes?: number;
  readonly heldBytes: number;
  readonly blockCount: number;
  readonly keep: KeepClass;
  readonly pinned: boolean;
  readonly mounted: boolean;
  /** Milliseconds since 1970 of the last use; absent when nothing is held. */
  readonly lastUseMs?: number;
}

/** What an eviction freed. */
export interface Evicted {
  readonly blockCount: number;
  readonly sizeBytes: number;
}

/**
 * Blocks of blobs on this host.
 *
 * Life: constructed -> `start()` (finds what an earlier run kept) -> used -> `stop()` (everything accepted is durable).
 * A block is present only when it was written whole: a crash at any point loses blocks at worst, never yields a torn one.
 * Within its quota, when it has one: blocks go in groups, those used least recently first (src/blockstore/eviction.ts).
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
  /** The blob has this size: what was kept of it as one of another size goes. */
  resize(blob: BlobRef): Promise<void>;
  /** Blobs with any block present, with their sizes. */
  blobs(): readonly BlobRef[];
  /** Indices of the present blocks of a blob, ascending. */
  blocksOf(digest: Digest): readonly BlockIndex[];
  stats(): BlockStoreStats;
  /** Blobs with any block present, and pinned ones without. */
  usage(): readonly BlobUsage[];
  /** Keeps the blob longest, whether or not anything of it is present yet. When it resolves, a restart does not undo it. */
  pin(digest: Digest): Promise<void>;
  unpin(digest: Digest): Promise<void>;
  /** Marks blobs as mounted until as many `release()`s. Lasts as long as the process; also before `start()`. */
  retain(digests: readonly Digest[]): void;
  release(digests: readonly Digest[]): void;
  /** Evicts what is neither mounted, pinned nor in use until at most `targetBytes` are held; to the low watermark by default. */
  gc(options?: { readonly targetBytes?: number }): Promise<Evicted>;
}
