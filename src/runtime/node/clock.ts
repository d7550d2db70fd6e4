import type { Clock, Timer } from '../clock.ts';

/**
 * Longest delay of Node's timers in milliseconds (signed 32-bit, about 24.8 days). A timer with a
 * longer delay would fire at once.
 */
const TIMER_DELAY_MS_MAX = 2 ** 31 - 1;

/**
 * The clock of this machine. Timers do not keep the process alive; `sleep()` does, since a caller
 * waits for it.
 */
export class SystemClock implements Clock {
  nowMs(): number {
    return performance.now();
  }

  wallMs(): number {
    return Date.now();
  }

  setTimer(delayMs: number, callback: () => void): Timer {
    const timeout = setTimeout(callback, clampedDelayMs(delayMs)).unref();
    return { cancel: () => clearTimeout(timeout) };
  }

  sleep(delayMs: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted === true) return reject(asError(signal.reason));
      const onAbort = (): void => {
        clearTimeout(timeout);
        reject(asError(signal?.reason));
      };
      const timeout = setTimeout(() => {
        signal?.removeEventListener('abort', onAbort);
        resolve();
      }, clampedDelayMs(delayMs));
      signal?.addEventListener('abort', onAbort, { once: true });
    });
  }
}

/**
 * Keeps "at least `delayMs`": Node rounds the start down to a millisecond and may fire one early.
 */
function clampedDelayMs(delayMs: number): number {
  return delayMs > 0 ? Math.min(TIMER_DELAY_MS_MAX, Math.ceil(delayMs) + 1) : 0;
}

/** The abort reason; wrapped when it is no Error. */
function asError(reason: unknown): Error {
  return reason instanceof Error ? reason : new Error(`aborted: ${String(reason)}`);
}
