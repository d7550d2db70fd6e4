import type { Clock, Timer } from '../runtime/clock.ts';
import type { Disk } from '../runtime/disk.ts';
import type { Logger } from '../runtime/logger.ts';
import { errorText } from '../util/errors.ts';
import type { FileCache } from './file-cache.ts';
import { BLOBS_FOLDER, type BlobPaths } from './layout.ts';
import type { StoreMetrics } from './metrics.ts';

/** Files of a blob that hold writes which a loss of power would take. */
export interface SyncTarget {
  readonly paths: BlobPaths;
  /** Its folders were made and not synced yet. */
  namesUnsynced: boolean;
}

interface SyncerComponents {
  readonly disk: Disk;
  readonly files: FileCache;
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
    if (targets.some((target) => target.namesUnsynced)) {
      await this.#attempt(errors, () => this.#components.disk.syncFolder(BLOBS_FOLDER));
    }
    for (const target of targets) await this.#attempt(errors, () => this.#sync(target));
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

  async #sync(target: SyncTarget): Promise<void> {
    const { disk, files } = this.#components;
    const { data, records, folder, shard } = target.paths;
    await files.use(data, 'write', (file) => file.sync());
    await files.use(records, 'write', (file) => file.sync());
    if (!target.namesUnsynced) return;
    await disk.syncFolder(folder);
    await disk.syncFolder(shard);
    target.namesUnsynced = false;
  }
}
