import type { Clock } from './clock.ts';

/** A signal that aborts after a time or with another signal; cleared when what it bounds has ended. */
export interface Deadline {
  readonly signal: AbortSignal;
  clear(): void;
}

/** The reason of an abort by time. */
export class DeadlineError extends Error {
  override name = 'DeadlineError';
}

export function deadline(clock: Clock, delayMs: number, outer: AbortSignal): Deadline {
  const controller = new AbortController();
  const onAbort = (): void => controller.abort(outer.reason);
  const timer = clock.setTimer(delayMs, () =>
    controller.abort(new DeadlineError(`not done within ${Math.round(delayMs)} ms`)),
  );
  if (outer.aborted) onAbort();
  else outer.addEventListener('abort', onAbort, { once: true });
  return {
    signal: controller.signal,
    clear: () => {
      timer.cancel();
      outer.removeEventListener('abort', onAbort);
    },
  };
}
