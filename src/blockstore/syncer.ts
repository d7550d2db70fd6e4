import type { Clock, Timer } from '../runtime/clock.ts';
import type { Logger } from '../runtime/logger.ts';
import { errorText } from '../util/errors.ts';
import type { StoreMetrics } from './metrics.ts';

/** Files that hold writes which a loss of power would take. */
export interface SyncTarget {
  /** Makes durable what was written before the call. Rejects with DiskError. */
  sync(): Promise<void>;
}

interface SyncerComponents {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: StoreMetrics;
}

/**
 * Makes writes durable in groups: some time after the first write, everything written until then is synced at once.
 *
 * The order of data and records does not matter: every block is checked against its digest when it is read, so that a record
 * that survived without its data costs a block and never yields a wrong one.
 *
 * Life: constructed -> `touch()` after each write -> `flush()` and `stop()`.
 */
export class Syncer {
  readonly #components: SyncerComponents;
  readonly #intervalMs: number;
  readonly #dirty = new Set<SyncTarget>();
  #timer: Timer | undefined;
  /** The flush under way: one at a time. */
  #flushing: Promise<void> = Promise.resolve();

  constructor(components: SyncerComponents, init: { intervalMs: number }) {
    this.#components = components;
    this.#intervalMs = init.intervalMs;
  }

  touch(target: SyncTarget): void {
    this.#dirty.add(target);
    this.#timer ??= this.#components.clock.setTimer(this.#intervalMs, () => {
      this.#timer = undefined;
      // A failure is logged and counted; the kernel has given the pages up, and the digests tell what was lost.
      this.flush().catch(() => {});
    });
  }

  /** Syncs what was touched before the call. Rejects with the first DiskError, after it tried everything. */
  flush(): Promise<void> {
    const flushed = this.#flushing.then(() => this.#flush());
    this.#flushing = flushed.catch(() => {});
    return flushed;
  }

  /** No flush starts by itself any more. */
  stop(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  async #flush(): Promise<void> {
    const { clock, metrics } = this.#components;
    const targets = [...this.#dirty];
    this.#dirty.clear();
    if (targets.length === 0) return;
    const errors: unknown[] = [];
    const beforeMs = clock.nowMs();
    for (const target of targets) await this.#attempt(errors, () => target.sync());
    metrics.syncSeconds.observe({}, (clock.nowMs() - beforeMs) / 1000);
    if (errors.length > 0) throw errors[0];
  }

  async #attempt(errors: unknown[], action: () => Promise<void>): Promise<void> {
    try {
      await action();
    } catch (error) {
      errors.push(error);
      this.#components.metrics.errors.inc({ operation: 'sync', code: 'io' });
      this.#components.logger.error(
        { error: errorText(error) },
        'the store could not make blocks durable; a loss of power may take them',
      );
    }
  }
}
