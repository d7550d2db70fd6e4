import type { HeldImageInit } from './store-reader/held-image.ts';
import type { StoreShares } from './store-reader/store-shares.ts';

/**
 * Reads of a mount since its server took it: bytes by where they were, and counts of reads. A read
 * has stalled that waited longer than `STALL_MS`.
 */
export interface MountReads {
  /** Distinct bytes of the disk, in pages. */
  readonly touchedBytes: number;
  readonly storeBytes: number;
  readonly memoryBytes: number;
  readonly fetchedBytes: number;
  readonly stalled: number;
  readonly waiting: number;
  readonly failed: number;
}

/** In milliseconds. A program that waits for longer has noticed. */
export const STALL_MS = 1_000;

/** The store that has blocks of the disk. */
export interface HeldDisk {
  readonly image: Omit<HeldImageInit, 'shared'>;
  /** Of all mounts of the host. */
  readonly shares: StoreShares;
}
