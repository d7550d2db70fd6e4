import type { Logger } from '../runtime/logger.ts';
import type { Gauge } from '../runtime/metrics.ts';
import { DiskError } from '../runtime/disk.ts';
import { errorText } from '../util/errors.ts';

/**
 * Logs when writes to the disk begin to fail, and when they succeed again: one line each, for any
 * number of blocks. Nothing else changes: every put tries the disk again, so that the store
 * recovers with it.
 */
export class WriteHealth {
  readonly #logger: Logger;
  readonly #failing: Gauge;
  #isFailing = false;

  constructor(components: { logger: Logger; failing: Gauge }) {
    this.#logger = components.logger;
    this.#failing = components.failing;
  }

  succeeded(): void {
    if (!this.#isFailing) return;
    this.#set(false);
    this.#logger.info({}, 'the disk takes writes again; the store keeps blocks');
  }

  failed(error: unknown): void {
    if (!(error instanceof DiskError) || this.#isFailing) return;
    this.#set(true);
    this.#logger.error(
      { code: error.code, error: errorText(error) },
      'writes to the disk fail: blocks are passed on without being stored',
    );
  }

  #set(failing: boolean): void {
    this.#isFailing = failing;
    this.#failing.set({}, failing ? 1 : 0);
  }
}
