import type { Logger } from '../runtime/logger.ts';
import type { Gauge } from '../runtime/metrics.ts';
import { DiskError } from '../runtime/disk.ts';
import { errorText } from '../util/errors.ts';

/**
 * Tells when the disk stops taking writes and when it takes them again: one line each, however many blocks it concerns.
 * Nothing else changes: every put tries the disk anew, so that the store recovers with it.
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
    this.#logger.info({}, 'the disk takes blocks again');
  }

  failed(error: unknown): void {
    if (!(error instanceof DiskError) || this.#isFailing) return;
    this.#set(true);
    this.#logger.error(
      { code: error.code, error: errorText(error) },
      'the disk takes no blocks: they are passed on without being stored',
    );
  }

  #set(failing: boolean): void {
    this.#isFailing = failing;
    this.#failing.set({}, failing ? 1 : 0);
  }
}
