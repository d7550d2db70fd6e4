import type { AttestedBlock } from '../image/attested-block.ts';
import type { BlobRef, BlockIndex } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';

/** How much a store holds. */
export interface BlockStoreStats {
  readonly blobCount: number;
  readonly blockCount: number;
  readonly sizeBytes: number;
  /** Why blocks are passed on without being stored; absent while they are kept. */
  readonly writeTrouble?: string | undefined;
}

/**
 * How long the store keeps a blob: it evicts all groups of a class before any of the next. A block
 * never evicts one of a higher class.
 */
export type KeepClass = 'plain' | 'mounted' | 'pinned';

/** How much the store holds of a blob, and why it keeps the blob. */
export interface BlobUsage {
  readonly digest: Digest;
  /** Size of the whole blob; absent when the store holds none of its blocks. */
  readonly sizeBytes?: number;
  readonly heldBytes: number;
  readonly blockCount: number;
  readonly keep: KeepClass;
  readonly pinned: boolean;
  readonly mounted: boolean;
  /**
   * Time of the last use in milliseconds since 1970; absent when the store holds none of its
   * blocks.
   */
  readonly lastUseMs?: number;
}

/** Blocks and bytes that an eviction freed. */
export interface Evicted {
  readonly blockCount: number;
  readonly sizeBytes: number;
}

/** Whether a block of a blob has this BLAKE3, by whom the caller believes. */
export type MatchesDigest = (index: BlockIndex, blockDigest: Uint8Array) => boolean;

/**
 * Blocks of blobs on this host.
 *
 * Life: constructed -> `start()` (finds the blocks of an earlier run) -> used -> `stop()` (all
 * accepted blocks are durable). A block is present only when it was written whole: a crash at any
 * point may lose blocks, but never yields a torn one. With a quota, the store evicts blocks in
 * groups, the least recently used first (src/blockstore/eviction.ts). Errors: `BlockStoreError`; a
 * missing block is not an error.
 */
export interface BlockStore {
  start(): Promise<void>;
  stop(): Promise<void>;
  /** Whether the block is present: answered synchronously from memory. */
  has(digest: Digest, index: BlockIndex): boolean;
  /**
   * The block, whose payload the caller releases; undefined when it is absent or was found damaged.
   */
  get(blob: BlobRef, index: BlockIndex): Promise<AttestedBlock | undefined>;
  /**
   * Keeps a verified block; does nothing when it is present. Retains the payload for as long as it
   * needs it.
   */
  put(blob: BlobRef, index: BlockIndex, block: AttestedBlock): Promise<void>;
  /** Forgets a block, for instance a damaged one. */
  drop(digest: Digest, index: BlockIndex): Promise<void>;
  /**
   * Drops the blocks of the blob that do not match: their digests are those of which an image says
   * that they are wrong.
   */
  keepMatching(blob: BlobRef, matches: MatchesDigest): Promise<void>;
  /** The blob has this size: its blocks kept under another size go. */
  resize(blob: BlobRef): Promise<void>;
  /** Blobs with any block present, with their sizes. */
  blobs(): readonly BlobRef[];
  /** Indices of the present blocks of a blob, ascending. */
  blocksOf(digest: Digest): readonly BlockIndex[];
  stats(): BlockStoreStats;
  /** Blobs with any block present, and pinned blobs without. */
  usage(): readonly BlobUsage[];
  /**
   * Keeps the blob longest, with or without blocks present. Once it resolves, the pin survives a
   * restart.
   */
  pin(digest: Digest): Promise<void>;
  unpin(digest: Digest): Promise<void>;
  /**
   * Marks blobs as mounted until as many `release()`s, or the end of the process. May be called
   * before `start()`.
   */
  retain(digests: readonly Digest[]): void;
  release(digests: readonly Digest[]): void;
  /**
   * Evicts blocks neither mounted, pinned nor in use until at most `targetBytes` are held (default:
   * the low watermark).
   */
  gc(options?: { readonly targetBytes?: number }): Promise<Evicted>;
}
