import type { Clock, Timer } from '../../src/runtime/clock.ts';

/** Time that stands still: timers fire when a test says so. */
export class ManualClock implements Clock {
  readonly #timers = new Map<() => void, number>();

  /** Delays of the timers that are set, in milliseconds. */
  get delays(): number[] {
    return [...this.#timers.values()];
  }

  /** Fires every timer that is set now. */
  fireAll(): void {
    const due = [...this.#timers.keys()];
    this.#timers.clear();
    for (const callback of due) callback();
  }

  nowMs(): number {
    return 0;
  }

  wallMs(): number {
    return 0;
  }

  setTimer(delayMs: number, callback: () => void): Timer {
    const own = (): void => callback();
    this.#timers.set(own, delayMs);
    return { cancel: () => void this.#timers.delete(own) };
  }

  sleep(): Promise<void> {
    throw new Error('nobody sleeps on this clock');
  }
}
