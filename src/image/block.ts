import type { Digest } from './digest.ts';

/**
 * Unit of transfer, caching and verification of a blob, in bytes. It is part of the wire protocol
 * and is not negotiated: hosts name and sign blocks by their index alone, so agents with another
 * block size speak another protocol. Stores record it in their header.
 */
export const BLOCK_SIZE_BYTES = 256 * 1024;

/**
 * Largest accepted blob, in bytes (1 TiB): bounds the memory that the word of a peer or a registry
 * can make an agent allocate.
 */
export const BLOB_SIZE_BYTES_MAX = 2 ** 40;

declare const blockIndexBrand: unique symbol;

/** Number of a block in its blob, from 0. */
export type BlockIndex = number & { readonly [blockIndexBrand]: true };

/** Brands a number as the index of a block, without a check. */
export function blockIndex(value: number): BlockIndex {
  return value as BlockIndex;
}

/** A blob as everything below an image knows it. */
export interface BlobRef {
  readonly digest: Digest;
  readonly sizeBytes: number;
}

/**
 * What names a blob at a storage whose paths hold no digest. Nothing says what its content should
 * be: as long as these stay the same, it is the same blob.
 */
export interface OpaqueName {
  /** Below the storage, without a leading slash and without the query. */
  readonly path: string;
  /** The strong validator that the storage gives, with its quotes. */
  readonly etag: string;
  readonly sizeBytes: number;
}

/**
 * Where the origin keeps a blob: a registry and a repository, or a storage to which a registry
 * redirects.
 */
export interface BlobOrigin {
  /** `host[:port]` of the registry or the storage. */
  readonly registry: string;
  /** Empty at a storage. */
  readonly repository: string;
  /**
   * Of a storage: scheme, host and the path up to the digest, such as
   * `https://s3.example/bucket/docker/registry/v2/blobs/`.
   */
  readonly storage?: string;
  /**
   * For a source that is not believed: the digest by which the source knows the blob. The blocks of
   * such a blob have a key of their own (blob-key.ts).
   */
  readonly content?: Digest;
  /**
   * For a storage whose paths hold no digest. Blocks have a key of their own here too, and no
   * sha256 of the whole is known.
   */
  readonly opaque?: OpaqueName;
}

/** Number of blocks of a blob of this size; the last block may be shorter. */
export function blockCount(sizeBytes: number): number {
  return Math.ceil(sizeBytes / BLOCK_SIZE_BYTES);
}

/** Number of blocks of the largest blob: 2^22. */
export const BLOCKS_MAX = blockCount(BLOB_SIZE_BYTES_MAX);

/** Length of this block in bytes: a whole block, or less for the last one. */
export function blockLength(sizeBytes: number, index: BlockIndex): number {
  return Math.min(BLOCK_SIZE_BYTES, sizeBytes - index * BLOCK_SIZE_BYTES);
}

/**
 * Blobs under this size are one tree, larger ones `STRIPES_MAX`. docs/TREES.md says why: a host
 * sends on only some of the trees, so there must be enough trees, of like sizes; two for each
 * colour at each of four roots are enough. The connections and reports that a host shares between
 * its trees do not grow with their number.
 */
const STRIPED_SIZE_BYTES_MIN = 8 * 1024 * 1024;
const STRIPES_MAX = 8;

/**
 * Number of trees that share a blob of this size: block `i` belongs to stripe `i mod stripeCount`.
 */
export function stripeCount(sizeBytes: number): number {
  return sizeBytes < STRIPED_SIZE_BYTES_MIN ? 1 : STRIPES_MAX;
}

/** The blocks that a range of a blob touches, in order; `length` is at least 1. */
export function blocksOfRange(offset: number, length: number): readonly BlockIndex[] {
  const first = Math.floor(offset / BLOCK_SIZE_BYTES);
  const last = Math.floor((offset + length - 1) / BLOCK_SIZE_BYTES);
  return Array.from({ length: last - first + 1 }, (_, i) => blockIndex(first + i));
}
