import type { Clock } from '../../runtime/clock.ts';
import type { LogFields, Logger } from '../../runtime/logger.ts';
import { DeadlineError } from '../../runtime/deadline.ts';
import { CodedError, errorText } from '../../util/errors.ts';

/** Lines in any second: a client can make requests fail as fast as it likes. (tunable) */
const LINES_MAX = 5;
const WINDOW_MS = 1000;

/**
 * Logs requests that failed, a few lines a second at most; how many more there were is said in a
 * line of its own. What is expected to happen is a warning without a stack, anything else an error
 * with one.
 */
export class FailureLog {
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #message: string;
  #startedMs = Number.NEGATIVE_INFINITY;
  #lines = 0;
  #suppressed = 0;

  constructor(
    components: { readonly clock: Clock; readonly logger: Logger },
    init: { readonly message: string },
  ) {
    this.#clock = components.clock;
    this.#logger = components.logger;
    this.#message = init.message;
  }

  note(error: unknown, fields: LogFields): void {
    const nowMs = this.#clock.nowMs();
    if (nowMs >= this.#startedMs + WINDOW_MS) {
      this.#startedMs = nowMs;
      this.#lines = 0;
    }
    if (this.#lines < LINES_MAX) this.#write(error, fields);
    else this.#suppress(this.#startedMs + WINDOW_MS - nowMs);
  }

  #write(error: unknown, fields: LogFields): void {
    this.#lines++;
    if (!(error instanceof CodedError || error instanceof DeadlineError)) {
      this.#logger.error({ ...fields, error }, this.#message);
      return;
    }
    const because = error.cause === undefined ? {} : { cause: errorText(error.cause) };
    this.#logger.warn({ ...fields, error: error.message, ...because }, this.#message);
  }

  #suppress(restMs: number): void {
    if (this.#suppressed++ > 0) return;
    this.#clock.setTimer(restMs, () => {
      const suppressed = this.#suppressed;
      this.#suppressed = 0;
      this.#logger.warn({ suppressed }, `${this.#message}: more of the same within a second`);
    });
  }
}
