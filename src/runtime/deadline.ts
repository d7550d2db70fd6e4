import type { Clock } from './clock.ts';

/**
 * A signal that aborts after a time or with another signal. Its owner clears it when the bounded
 * work ends.
 */
export interface Deadline {
  readonly signal: AbortSignal;
  clear(): void;
}

/** Default reason of an abort by time. */
export class DeadlineError extends Error {
  override name = 'DeadlineError';
}

/** Another signal that aborts a deadline, and the reason of an abort by time. */
export interface DeadlineOptions {
  /** Aborts the deadline with its own reason. */
  readonly signal?: AbortSignal | undefined;
  /** Does so too: the end of what the work is done for. */
  readonly stopped?: AbortSignal;
  /** Makes the reason of an abort by time. Default: a DeadlineError. */
  readonly reason?: () => Error;
}

/** Starts a deadline of `delayMs`. The caller clears it; `within()` clears its own. */
export function deadline(clock: Clock, delayMs: number, options: DeadlineOptions = {}): Deadline {
  const { reason } = options;
  const controller = new AbortController();
  // Not a signal that Node combines: one that outlives the work would remember each deadline until
  // the garbage collector has seen it.
  const links = [options.signal, options.stopped].filter((signal) => signal !== undefined);
  const ends = links.map((signal) => {
    const onAbort = (): void => controller.abort(signal.reason);
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
    return (): void => signal.removeEventListener('abort', onAbort);
  });
  const timer = clock.setTimer(delayMs, () =>
    controller.abort(reason?.() ?? new DeadlineError(`not done within ${Math.round(delayMs)} ms`)),
  );
  return {
    signal: controller.signal,
    clear: () => {
      timer.cancel();
      for (const end of ends) end();
    },
  };
}

/**
 * Runs `task` with a signal that aborts after `delayMs`. The task acts on the abort; for a task
 * that cannot, see `orAbort()`.
 */
export async function within<T>(
  clock: Clock,
  delayMs: number,
  task: (signal: AbortSignal) => Promise<T>,
  options: DeadlineOptions = {},
): Promise<T> {
  const limit = deadline(clock, delayMs, options);
  try {
    return await task(limit.signal);
  } finally {
    limit.clear();
  }
}
