import type { Clock, Timer } from '../../src/runtime/clock.ts';

interface ManualClockInit {
  /** Milliseconds on both clocks at the start. */
  readonly startMs?: number;
  /** Whether a sleep waits until the test moves time, or moves time itself and ends at once. */
  readonly sleeps?: 'wait' | 'pass';
}

/**
 * Time that a test moves: no timer fires by itself. Both clocks run alike.
 *
 * With `sleeps: 'pass'` a sleep takes no real time: retries run through, and `slept` records their
 * delays.
 */
export class ManualClock implements Clock {
  /** Delays of all sleeps so far, in milliseconds. */
  readonly slept: number[] = [];
  readonly #timers = new Map<() => void, number>();
  readonly #passes: boolean;
  #nowMs: number;

  constructor(init: ManualClockInit = {}) {
    this.#nowMs = init.startMs ?? 0;
    this.#passes = init.sleeps === 'pass';
  }

  /** Milliseconds until each set timer fires, soonest first. */
  get delays(): number[] {
    return this.#byTime().map(([, dueMs]) => dueMs - this.#nowMs);
  }

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
    this.slept.push(delayMs);
    if (this.#passes) this.advance(delayMs);
    if (signal?.aborted === true) return Promise.reject(signal.reason as Error);
    if (this.#passes) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.setTimer(delayMs, resolve);
      signal?.addEventListener('abort', () => reject(signal.reason as Error));
    });
  }

  /** Lets time pass; timers fire in order, each at its time. */
  advance(byMs: number): void {
    const untilMs = this.#nowMs + byMs;
    for (;;) {
      const [next] = this.#byTime();
      if (next === undefined || next[1] > untilMs) break;
      this.#fire(next);
    }
    this.#nowMs = untilMs;
  }

  /** Fires every timer that is set now, each at its time, and none that these timers set. */
  fireAll(): void {
    const due = this.#byTime();
    for (const [callback] of due) this.#timers.delete(callback);
    for (const each of due) this.#fire(each);
  }

  /** Moves time without firing a timer. */
  jump(byMs: number): void {
    this.#nowMs += byMs;
  }

  /** Lets time pass as if the process stood still: afterwards every due timer fires at once. */
  stall(byMs: number): void {
    this.jump(byMs);
    this.advance(0);
  }

  #fire([callback, dueMs]: [() => void, number]): void {
    this.#timers.delete(callback);
    this.#nowMs = Math.max(this.#nowMs, dueMs);
    callback();
  }

  #byTime(): [() => void, number][] {
    return [...this.#timers].toSorted(([, a], [, b]) => a - b);
  }
}
