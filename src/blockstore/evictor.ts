import type { Clock } from '../runtime/clock.ts';
import type { Logger } from '../runtime/logger.ts';
import { errorText } from '../util/errors.ts';
import type { Group } from './group-table.ts';
import type { Evicted, KeepClass } from './store.ts';

/** Share of the limit beyond which groups go. What is between it and the limit is room for writes while they do. */
const HIGH_WATERMARK = 0.95;

/** Share down to which they go then: lower ones forget more at once, higher ones evict at every other write. */
const LOW_WATERMARK = 0.9;

/** Pause after a group that the disk would not let go, in milliseconds. */
const RETRY_MS = 1000;

interface EvictorComponents {
  readonly clock: Clock;
  readonly logger: Logger;
  /** What is held. */
  readonly heldBytes: () => number;
  /** What is held, about to be written, or not yet freed. */
  readonly usedBytes: () => number;
  /** What may be held at most, now. */
  readonly limitBytes: () => number;
  /** The first group to go, up to this class; undefined when there is none. */
  readonly victim: (keepMax: KeepClass) => Group | undefined;
  /** Frees a group. Rejects when the disk refuses, and then nothing has changed. */
  readonly evict: (group: Group) => Promise<void>;
}

/**
 * Keeps the store below its limit: from the high watermark down to the low one, one group at a time, beside reads and writes.
 *
 * Life: constructed -> `consider()` before each write, `gc()` -> `stop()`, which lets the group under way finish.
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

  /** Starts an eviction when there is too much, for the sake of a block of this class: it pushes out none of a higher class. */
  consider(keep: KeepClass): void {
    const { clock, heldBytes, usedBytes, limitBytes } = this.#components;
    if (usedBytes() <= limitBytes() * HIGH_WATERMARK) return;
    if (keep !== 'plain' && this.#keepMax !== 'pinned') this.#keepMax = keep;
    if (this.#running !== undefined || this.#stopped || clock.nowMs() < this.#retryAtMs) return;
    void this.#start(() => ({
      targetBytes: limitBytes() * LOW_WATERMARK,
      // Beyond the limit itself nothing is sacred: it was lowered, or the disk has filled up.
      keepMax: heldBytes() > limitBytes() ? 'pinned' : this.#keepMax,
    })).catch(() => {});
  }

  /** Evicts what is plain until at most so much is held (the low watermark by default). Rejects with DiskError. */
  async gc(targetBytes?: number): Promise<Evicted> {
    while (this.#running !== undefined) await this.#running.catch(() => {});
    return this.#start(() => ({
      targetBytes: targetBytes ?? this.#components.limitBytes() * LOW_WATERMARK,
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

  #start(goal: () => { targetBytes: number; keepMax: KeepClass }): Promise<Evicted> {
    this.#running = this.#run(goal).finally(() => {
      this.#running = undefined;
      this.#keepMax = 'plain';
    });
    return this.#running;
  }

  async #run(goal: () => { targetBytes: number; keepMax: KeepClass }): Promise<Evicted> {
    const { clock, logger, usedBytes, victim, evict } = this.#components;
    let [blockCount, sizeBytes] = [0, 0];
    while (!this.#stopped) {
      const { targetBytes, keepMax } = goal();
      const group = usedBytes() > targetBytes ? victim(keepMax) : undefined;
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
