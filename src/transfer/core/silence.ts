import type { TimerHeap } from '../../util/timer-heap.ts';
import type { CoreInit, SourceWindow, TimerAction } from './core-types.ts';
import { stoodStill } from './fallback.ts';
import { silenceMs } from './source-window.ts';

/** Watches the silence of peers that have requests of this host in flight. */
export class Silence<T> {
  readonly #timers: TimerHeap<TimerAction<T>>;
  readonly #init: CoreInit;

  constructor({ timers, init }: { timers: TimerHeap<TimerAction<T>>; init: CoreInit }) {
    this.#timers = timers;
    this.#init = init;
  }

  /** A request goes out to the peer. */
  watch(window: SourceWindow<T>): void {
    const atMs = this.#endMs(window);
    if (window.silent !== undefined) {
      if (window.silent.atMs <= atMs) return;
      // The timer was set for the first word of the peer, which has come.
      window.silent.action = undefined;
    }
    window.silent = this.#timers.set(atMs, { type: 'silent', window });
  }

  /**
   * The peer's timer fired. Returns whether the peer has been silent for too long; if not, it stays
   * watched.
   */
  isOver(window: SourceWindow<T>, nowMs: number): boolean {
    const dueMs = window.silent?.atMs ?? nowMs;
    window.silent = undefined;
    if (window.asked.size === 0) return false;
    if (stoodStill(dueMs, nowMs)) window.lastHeardMs = nowMs;
    if (nowMs >= this.#endMs(window)) return true;
    this.watch(window);
    return false;
  }

  #endMs(window: SourceWindow<T>): number {
    return window.lastHeardMs + silenceMs(window, this.#init);
  }
}
