import type { Codec } from '../runtime/codec.ts';

/** Seed of the checksum that follows each block of a ZFile. */
export const BLOCK_CRC_SEED = 100_007;

/**
 * CRC-32C as overlaybd uses it: reflected Castagnoli without the standard inversions. The seed is 0
 * for headers, jump tables and traces, and `BLOCK_CRC_SEED` for blocks.
 */
export function rawCrc32c(codec: Codec, bytes: Uint8Array, seed: number): number {
  return ~codec.crc32c(bytes, ~seed >>> 0) >>> 0;
}
