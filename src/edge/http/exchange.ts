import type { ServerResponse } from 'node:http';
import type { Clock } from '../../runtime/clock.ts';
import type { LogFields, Logger } from '../../runtime/logger.ts';
import { orAbort } from '../../util/or-abort.ts';
import { BlobError } from './blob-error.ts';
import { FailureLog } from './failure-log.ts';

/** What ends an exchange without an answer: nobody is there to be told. */
class ClientGoneError extends Error {
  constructor() {
    super('the client is gone');
  }
}

/** A request in flight. */
export interface Exchange {
  readonly response: ServerResponse;
  /**
   * Aborts when the client leaves, when the deadline has passed before a head was sent, by
   * `abort()`, and at the end.
   */
  readonly signal: AbortSignal;
  readonly startedMs: number;
  /** Until when the head of the answer is to be sent, on the monotonic clock. */
  readonly deadlineMs: number;
  /** Ends the exchange with this error. */
  abort(error: Error): void;
}

interface Components {
  readonly clock: Clock;
  readonly logger: Logger;
}

/** What is done for a request, and what a client is told when that fails. */
interface Work {
  /** For the log. */
  readonly fields: LogFields;
  readonly serve: (exchange: Exchange) => Promise<void>;
  readonly refuse: (error: unknown) => void;
}

/**
 * Runs requests within their bounds: the deadline of the head, and the life of the client. One that
 * fails before its head is refused; with the head sent the connection is cut, since a short body is
 * the only other way to say so.
 */
export class Exchanges {
  readonly #clock: Clock;
  readonly #failures: FailureLog;
  readonly #deadlineMs: number;

  /** `message`: what the log says of those that fail. */
  constructor(
    components: Components,
    init: { readonly deadlineMs: number; readonly message: string },
  ) {
    this.#clock = components.clock;
    this.#failures = new FailureLog(components, init);
    this.#deadlineMs = init.deadlineMs;
  }

  /** Never rejects. Ends when the work does, or at once when the signal aborts. */
  async run(response: ServerResponse, work: Work): Promise<void> {
    const abort = new AbortController();
    const { signal } = abort;
    const timer = this.#clock.setTimer(this.#deadlineMs, () => {
      if (!response.headersSent) abort.abort(lateError(this.#deadlineMs));
    });
    const onClose = (): void => abort.abort(new ClientGoneError());
    response.once('close', onClose);
    const startedMs = this.#clock.nowMs();
    const exchange = {
      response,
      signal,
      startedMs,
      deadlineMs: startedMs + this.#deadlineMs,
      abort: (error: Error): void => abort.abort(error),
    };
    try {
      await orAbort(work.serve(exchange), signal);
    } catch (error) {
      if (error instanceof ClientGoneError) return;
      this.#failures.note(error, work.fields);
      if (response.headersSent) response.destroy();
      else work.refuse(error);
    } finally {
      timer.cancel();
      response.off('close', onClose);
      onClose();
    }
  }
}

function lateError(deadlineMs: number): BlobError {
  const text = `the bytes did not arrive within ${deadlineMs} ms from any source`;
  return new BlobError(text, { code: 'timeout' });
}
