import type { Clock } from './clock.ts';

/** A signal that aborts after a time or with another signal; to be cleared when the work that it bounds has ended. */
export interface Deadline {
  readonly signal: AbortSignal;
  clear(): void;
}

/** The reason of an abort by time. */
export class DeadlineError extends Error {
  override name = 'DeadlineError';
}

/** What else ends the time, and what the abort by time says. */
export interface DeadlineOptions {
  /** Aborts the deadline with its own reason. */
  readonly signal?: AbortSignal | undefined;
  /** Makes the reason of an abort by time; a DeadlineError when absent. */
  readonly reason?: () => Error;
}

/** Starts a deadline of `delayMs`. The caller clears it; `within()` does so by itself. */
export function deadline(clock: Clock, delayMs: number, options: DeadlineOptions = {}): Deadline {
  const { signal, reason } = options;
  const controller = new AbortController();
  const onAbort = (): void => controller.abort(signal?.reason);
  const timer = clock.setTimer(delayMs, () =>
    controller.abort(reason?.() ?? new DeadlineError(`not done within ${Math.round(delayMs)} ms`)),
  );
  if (signal?.aborted === true) onAbort();
  else signal?.addEventListener('abort', onAbort, { once: true });
  return {
    signal: controller.signal,
    clear: () => {
      timer.cancel();
      signal?.removeEventListener('abort', onAbort);
    },
  };
}

/** Runs `task` with a signal that aborts after `delayMs`. The task decides what an abort does; see `orAbort()` for one that cannot. */
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
