import type { Logger } from '../runtime/logger.ts';
import type { Gauge } from '../runtime/metrics.ts';
import { DiskError } from '../runtime/disk.ts';
import { errorText } from '../util/errors.ts';

/**
 * Knows whether the disk takes blocks. Logs when writes begin to fail, and when they succeed again:
 * one line each, for any number of blocks. Nothing else changes: every put tries the disk again, so
 * that the store recovers with it.
 */
export class WriteHealth {
  readonly #logger: Logger;
  readonly #failing: Gauge;
  #failure: string | undefined;
  #isFull = false;

  constructor(components: { logger: Logger; failing: Gauge }) {
    this.#logger = components.logger;
    this.#failing = components.failing;
    this.#show();
  }

  /** Why blocks are passed on without being stored; undefined while the disk takes them. */
  get trouble(): string | undefined {
    return this.#isFull ? 'the disk is full' : this.#failure;
  }

  /** Whether the disk has less room than the store leaves free. */
  full(isFull: boolean): void {
    this.#isFull = isFull;
    this.#show();
  }

  succeeded(): void {
    if (this.#failure === undefined) return;
    this.#failure = undefined;
    this.#show();
    this.#logger.info({}, 'the disk takes writes again; the store keeps blocks');
  }

  failed(error: unknown): void {
    if (!(error instanceof DiskError) || this.#failure !== undefined) return;
    this.#failure = `writes to the disk fail: ${errorText(error)}`;
    this.#show();
    this.#logger.error(
      { code: error.code, error: errorText(error) },
      'writes to the disk fail: blocks are passed on without being stored',
    );
  }

  #show(): void {
    this.#failing.set({}, this.trouble === undefined ? 0 : 1);
  }
}
