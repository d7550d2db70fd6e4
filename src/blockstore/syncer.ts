import type { Clock, Timer } from '../runtime/clock.ts';
import type { Logger } from '../runtime/logger.ts';
import { errorText } from '../util/errors.ts';
import type { StoreMetrics } from './metrics.ts';

/** Files with writes that a loss of power would take. */
export interface SyncTarget {
  /** Makes all writes before the call durable. Rejects with DiskError. */
  sync(): Promise<void>;
}

interface SyncerComponents {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: StoreMetrics;
}

/**
 * Makes writes durable in groups: `intervalMs` after the first write, syncs all writes until then
 * at once.
 *
 * The order of data and records does not matter. Every read checks the block against its digest, so
 * that a record that survived without its data costs a block and never yields a wrong one.
 *
 * Life: constructed -> `touch()` after each write -> `flush()` and `stop()`.
 */
export class Syncer {
  readonly #components: SyncerComponents;
  readonly #intervalMs: number;
  readonly #dirty = new Set<SyncTarget>();
  #timer: Timer | undefined;
  /** The last flush; flushes run one at a time. */
  #flushing: Promise<void> = Promise.resolve();

  constructor(components: SyncerComponents, init: { intervalMs: number }) {
    this.#components = components;
    this.#intervalMs = init.intervalMs;
  }

  touch(target: SyncTarget): void {
    this.#dirty.add(target);
    this.#timer ??= this.#components.clock.setTimer(this.#intervalMs, () => {
      this.#timer = undefined;
      // A failure is logged and counted. The kernel has dropped the pages; the digests reveal lost
      // blocks.
      this.flush().catch(() => {});
    });
  }

  /** Syncs every target touched before the call, then rejects with the first DiskError, if any. */
  flush(): Promise<void> {
    const flushed = this.#flushing.then(() => this.#flush());
    this.#flushing = flushed.catch(() => {});
    return flushed;
  }

  /** Stops the timed flushes. */
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
