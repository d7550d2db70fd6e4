import type { Clock, Timer } from '../../src/runtime/clock.ts';

/** Time that moves by `advance()`, and by a sleep, which takes no real time and is written down. */
export class FakeClock implements Clock {
  /** Delays of all sleeps so far, in milliseconds. */
  readonly slept: number[] = [];
  readonly #timers = new Map<() => void, number>();
  #nowMs = 1_000;

  nowMs(): number {
    return this.#nowMs;
  }

  wallMs(): number {
    return Date.UTC(2024, 0, 1) + this.#nowMs;
  }

  setTimer(delayMs: number, callback: () => void): Timer {
    const own = (): void => callback();
    this.#timers.set(own, this.#nowMs + delayMs);
    return { cancel: () => void this.#timers.delete(own) };
  }

  sleep(delayMs: number, signal?: AbortSignal): Promise<void> {
    this.slept.push(delayMs);
    this.advance(delayMs);
    if (signal?.aborted === true) return Promise.reject(signal.reason as Error);
    return Promise.resolve();
  }

  /** Fires the timers that come due, each at its time. */
  advance(byMs: number): void {
    const untilMs = this.#nowMs + byMs;
    for (;;) {
      const [next] = [...this.#timers].sort((a, b) => a[1] - b[1]);
      if (next === undefined || next[1] > untilMs) break;
      this.#timers.delete(next[0]);
      this.#nowMs = Math.max(this.#nowMs, next[1]);
      next[0]();
    }
    this.#nowMs = untilMs;
  }
}
