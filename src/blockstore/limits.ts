import { MIB } from '../util/bytes.ts';

/** Blocks written at a time. Node has four threads for files: half of them stay for reads, which something waits for. */
export const WRITES_RUNNING_MAX = 2;

/**
 * Upkeep at a time: syncs, removals, notes of what was used, each of which may take a thread for as long as the disk likes. With the
 * writes they take three of the four, so that a read never waits until something is durable or gone.
 */
export const SLOW_RUNNING_MAX = 1;

/** Puts and drops that wait for their turn; puts are bounded by `queueBytesMax` too. Beyond it they reject with `busy`. */
export const WRITES_WAITING_MAX = 4096;

/** Blocks read at a time: 4 MiB of buffers, more than enough for the threads that there are. */
export const READS_RUNNING_MAX = 16;

/** Gets that wait for their turn; beyond it they reject with `busy`. */
export const READS_WAITING_MAX = 4096;

/** Blobs kept: some hundred bytes of memory each, and one bit a block. A put that would begin another is refused. */
export const BLOBS_MAX = 65_536;

/** Upkeep that waits for its turn. Each blob has a sync and a removal at most, and the notes are written one by one: there is always room. */
export const SLOW_WAITING_MAX = 2 * BLOBS_MAX + 1;

/** What a store does unless told otherwise. */
export const DISK_STORE_DEFAULTS = {
  /**
   * Bytes accepted and not written yet, all of it in memory: 60 ms of a fast network, so that a disk that pauses for a sync loses
   * nothing. One that is slower than the network for longer is passed by: what it cannot keep is not worth a host's memory.
   */
  queueBytesMax: 16 * MIB,
  /** Files held open, idle ones included; half of the usual limit of 1,024 descriptors stays for connections. */
  filesOpenMax: 256,
  /** Time from a write to the sync that covers it, in milliseconds: half of the second that durability may lag. */
  syncIntervalMs: 500,
  /** Free bytes of the file system below which nothing more is written: the host needs a disk that is not full. */
  freeBytesMin: 512 * MIB,
  /** Bytes of blocks kept at most. */
  quotaBytes: Number.POSITIVE_INFINITY,
} as const;

/** What a store may be given, in the units and with the meaning of `DISK_STORE_DEFAULTS`. */
export interface DiskStoreInit {
  readonly queueBytesMax?: number;
  readonly filesOpenMax?: number;
  readonly syncIntervalMs?: number;
  readonly freeBytesMin?: number;
  readonly quotaBytes?: number;
}
