import { blockLength } from '../../image/block.ts';
import type { HeapTimer, TimerHeap } from '../../util/timer-heap.ts';
import type { Attempt, CoreInit, SourceWindow, TimerAction } from './core-types.ts';
import { Throttle } from './throttle.ts';

/** The download limit: which reads have to wait for it, and where they go on. */
export class Download<T> {
  readonly #timers: TimerHeap<TimerAction<T>>;
  readonly #throttle: Throttle | undefined;
  /** Sources with something to ask for that was held back. */
  readonly #held = new Set<SourceWindow<T>>();
  #timer: HeapTimer<TimerAction<T>> | undefined;

  constructor(components: {
    readonly timers: TimerHeap<TimerAction<T>>;
    readonly init: Pick<CoreInit, 'downloadBytesPerSecond'>;
  }) {
    this.#timers = components.timers;
    const { downloadBytesPerSecond: rate } = components.init;
    this.#throttle = rate === undefined ? undefined : new Throttle({ bytesPerSecond: rate });
  }

  /** Time in which it held something back, in milliseconds. */
  get heldMs(): number {
    return this.#throttle?.heldMs ?? 0;
  }

  /** Whether the block may be asked for now. */
  admit(attempt: Attempt<T>, nowMs: number): boolean {
    const throttle = this.#throttle;
    if (throttle === undefined) return true;
    const { blob, index } = attempt.fetch;
    if (throttle.admit(attempt.kind, blockLength(blob.ref.sizeBytes, index), nowMs)) return true;
    this.#held.add(attempt.window);
    if (this.#timer !== undefined && this.#timer.atMs <= throttle.retryMs) return false;
    if (this.#timer !== undefined) this.#timer.action = undefined;
    this.#timer = this.#timers.set(throttle.retryMs, { type: 'download' });
    return false;
  }

  /** The sources that may go on: demand first, wherever it is asked for. */
  onTimer(): readonly SourceWindow<T>[] {
    this.#timer = undefined;
    const held = [...this.#held];
    this.#held.clear();
    const [demand, rest] = [true, false].map((isDemand) =>
      held.filter((window) => window.demand.length > 0 === isDemand),
    );
    return [...(demand ?? []), ...(rest ?? [])];
  }
}
