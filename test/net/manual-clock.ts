import type { Clock, Timer } from '../../src/runtime/clock.ts';

/** Time that a test moves. */
export class ManualClock implements Clock {
  #nowMs = 0;
  readonly #timers = new Map<() => void, number>();

  nowMs(): number {
    return this.#nowMs;
  }

  wallMs(): number {
    return this.#nowMs;
  }

  setTimer(delayMs: number, callback: () => void): Timer {
    const own = (): void => callback();
    this.#timers.set(own, this.#nowMs + delayMs);
    return { cancel: () => void this.#timers.delete(own) };
  }

  sleep(delayMs: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      this.setTimer(delayMs, resolve);
      signal?.addEventListener('abort', () => reject(signal.reason as Error));
    });
  }

  /** Delays until the timers that are set, in milliseconds, soonest first. */
  get delays(): number[] {
    return [...this.#timers.values()].map((dueMs) => dueMs - this.#nowMs).toSorted((a, b) => a - b);
  }

  /** Lets time pass; timers fire in order, each at its time. */
  advance(byMs: number): void {
    const untilMs = this.#nowMs + byMs;
    for (;;) {
      const [next] = [...this.#timers].toSorted(([, a], [, b]) => a - b);
      if (next === undefined || next[1] > untilMs) break;
      this.#timers.delete(next[0]);
      this.#nowMs = Math.max(this.#nowMs, next[1]);
      next[0]();
    }
    this.#nowMs = untilMs;
  }

  /** Lets time pass without a timer firing, as when the process stood still; then all that are due fire. */
  stall(byMs: number): void {
    this.#nowMs += byMs;
    this.advance(0);
  }
}
