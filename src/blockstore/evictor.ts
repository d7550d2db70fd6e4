import type { Clock } from '../runtime/clock.ts';
import type { Logger } from '../runtime/logger.ts';
import { errorText } from '../util/errors.ts';
import type { Group } from './group-table.ts';
import type { Evicted, KeepClass } from './store.ts';

/**
 * Share of a limit, in bytes or in blobs, beyond which eviction starts. The rest is room for writes
 * during the eviction.
 */
const HIGH_WATERMARK = 0.95;

/**
 * Share of it at which eviction ends. A lower one forgets more at once; a higher one evicts at
 * every other write.
 */
const LOW_WATERMARK = 0.9;

/** Pause after a failed removal of a group, in milliseconds. */
const RETRY_MS = 1000;

interface EvictorComponents {
  readonly clock: Clock;
  readonly logger: Logger;
  /** Bytes of blocks in the store. */
  readonly heldBytes: () => number;
  /** Bytes of blocks in the store, waiting to be written, or not freed yet. */
  readonly usedBytes: () => number;
  /** Most bytes that the store may hold now. */
  readonly limitBytes: () => number;
  /** Its blobs, and how many it may hold. */
  readonly blobs: { readonly size: number };
  readonly blobsMax: number;
  /** The first group to evict, up to this class; undefined when there is none. */
  readonly victim: (keepMax: KeepClass) => Group | undefined;
  /** Frees a group. Rejects when the disk fails, and then has changed nothing. */
  readonly evict: (group: Group) => Promise<void>;
}

/** What an eviction ends at. */
interface Goal {
  readonly targetBytes: number;
  readonly targetBlobs: number;
  /** No group of a higher class goes. */
  readonly keepMax: KeepClass;
}

/**
 * Keeps the store below its limits: from the high watermark down to the low one, one group at a
 * time, beside reads and writes.
 *
 * Life: constructed -> `consider()` before each write, `gc()` -> `stop()`, which waits for the
 * removal in flight.
 */
export class Evictor {
  readonly #components: EvictorComponents;
  #running: Promise<Evicted> | undefined;
  #keepMax: KeepClass = 'plain';
  #retryAtMs = Number.NEGATIVE_INFINITY;
  #stopped = false;

  constructor(components: EvictorComponents) {
    this.#components = components;
  }

  /**
   * Starts an eviction beyond the high watermark, to make room for a block of this class: it evicts
   * no group of a higher class.
   */
  consider(keep: KeepClass): void {
    const { clock, heldBytes, usedBytes, limitBytes, blobs, blobsMax } = this.#components;
    const isFull = usedBytes() > limitBytes() * HIGH_WATERMARK;
    if (!isFull && blobs.size <= blobsMax * HIGH_WATERMARK) return;
    if (keep !== 'plain' && this.#keepMax !== 'pinned') this.#keepMax = keep;
    if (this.#running !== undefined || this.#stopped || clock.nowMs() < this.#retryAtMs) return;
    void this.#start(() => ({
      targetBytes: limitBytes() * LOW_WATERMARK,
      targetBlobs: blobsMax * LOW_WATERMARK,
      // Beyond the limit itself any class may be evicted: the limit was lowered, or the disk is
      // full.
      keepMax: heldBytes() > limitBytes() ? 'pinned' : this.#keepMax,
    })).catch(() => {});
  }

  /**
   * Evicts groups of class `plain` until at most `targetBytes` are used (default: the low
   * watermark). Rejects with DiskError.
   */
  async gc(targetBytes?: number): Promise<Evicted> {
    while (this.#running !== undefined) await this.#running.catch(() => {});
    return this.#start(() => ({
      targetBytes: targetBytes ?? this.#components.limitBytes() * LOW_WATERMARK,
      targetBlobs: Number.POSITIVE_INFINITY,
      keepMax: 'plain',
    }));
  }

  start(): void {
    this.#stopped = false;
    this.#retryAtMs = Number.NEGATIVE_INFINITY;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running?.catch(() => {});
  }

  #start(goal: () => Goal): Promise<Evicted> {
    this.#running = this.#run(goal).finally(() => {
      this.#running = undefined;
      this.#keepMax = 'plain';
    });
    return this.#running;
  }

  async #run(goal: () => Goal): Promise<Evicted> {
    const { clock, logger, usedBytes, blobs, victim, evict } = this.#components;
    let [blockCount, sizeBytes] = [0, 0];
    while (!this.#stopped) {
      const { targetBytes, targetBlobs, keepMax } = goal();
      const isOver = usedBytes() > targetBytes || blobs.size > targetBlobs;
      const group = isOver ? victim(keepMax) : undefined;
      if (group === undefined) break;
      const freed = { blockCount: group.blockCount, sizeBytes: group.sizeBytes };
      try {
        await evict(group);
      } catch (error) {
        this.#retryAtMs = clock.nowMs() + RETRY_MS;
        logger.warn({ error: errorText(error) }, 'the store could not evict a group of blocks');
        throw error;
      }
      blockCount += freed.blockCount;
      sizeBytes += freed.sizeBytes;
    }
    logger.debug({ blockCount, sizeBytes }, 'blocks evicted');
    return { blockCount, sizeBytes };
  }
}
