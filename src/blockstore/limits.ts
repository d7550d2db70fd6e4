import { MIB } from '../util/bytes.ts';

/**
 * Most writes in flight. Node has four threads for files: half of them stay free for reads, for
 * which containers wait.
 */
export const WRITES_RUNNING_MAX = 2;

/**
 * Most upkeep in flight: syncs, removals and saves of uses. Each may block a thread for as long as
 * the disk takes. With the writes they take three of the four threads, so that a read never waits
 * for a sync or a removal.
 */
export const SLOW_RUNNING_MAX = 1;

/**
 * Most waiting puts and drops; further ones reject with `busy`. `queueBytesMax` also bounds the
 * puts.
 */
export const WRITES_WAITING_MAX = 4096;

/** Most reads in flight: 4 MiB of buffers, more than enough for four threads. */
export const READS_RUNNING_MAX = 16;

/** Most waiting gets; further ones reject with `busy`. */
export const READS_WAITING_MAX = 4096;

/**
 * Most blobs in a store: each takes some hundred bytes of memory, and one bit per block. Near this
 * many the store evicts; a put of a further blob rejects.
 */
const BLOBS_MAX = 65_536;

/**
 * Most waiting upkeep. Each blob has at most one sync and one removal, and saves run one at a time:
 * there is always room.
 */
export const SLOW_WAITING_MAX = 2 * BLOBS_MAX + 1;

/** Default settings of a store. */
export const DISK_STORE_DEFAULTS = {
  /**
   * Most bytes accepted but not written yet, all in memory. Prefetches wait for the store at a
   * quarter of it (CORE_DEFAULTS.storeBytesMax), so that a pause of the disk for a sync loses no
   * block. Demand reads wait for no disk: when they bring more for longer, puts reject. Blocks that
   * the disk cannot take are not worth a host's memory.
   */
  queueBytesMax: 64 * MIB,
  /**
   * Most open files, idle ones included; half of the usual limit of 1,024 descriptors stays for
   * connections.
   */
  filesOpenMax: 256,
  /**
   * Milliseconds from a write to the sync that covers it: half of the second by which durability
   * may lag.
   */
  syncIntervalMs: 500,
  /**
   * Free bytes of the file system below which puts reject: the host needs a disk that is not full.
   */
  freeBytesMin: 512 * MIB,
  /** Most blobs. */
  blobsMax: BLOBS_MAX,
  /** Most bytes of blocks that the store keeps. */
  quotaBytes: Number.POSITIVE_INFINITY,
} as const;

/** Settings of a store; `DISK_STORE_DEFAULTS` has their units, meaning and defaults. */
export interface DiskStoreInit {
  readonly queueBytesMax?: number;
  readonly filesOpenMax?: number;
  readonly blobsMax?: number;
  readonly syncIntervalMs?: number;
  readonly freeBytesMin?: number;
  readonly quotaBytes?: number;
}
