/** Runs at most `runningMax` tasks at a time; the others wait in arrival order. */
export class Limiter {
  readonly #runningMax: number;
  readonly #waitingMax: number;
  /** Called for each task in line when its turn comes; first come, first served. */
  readonly #waiting = new Set<() => void>();
  #running = 0;

  /** `waitingMax` bounds the line: see `run()`. */
  constructor(init: { runningMax: number; waitingMax: number }) {
    this.#runningMax = init.runningMax;
    this.#waitingMax = init.waitingMax;
  }

  /** Whether another task would find no place, not even in the line. */
  get full(): boolean {
    return this.#running >= this.#runningMax && this.#waiting.size >= this.#waitingMax;
  }

  /** Whether no task runs or waits. */
  get idle(): boolean {
    return this.#running === 0;
  }

  /**
   * Runs the task when its turn comes. Returns undefined, at once and without running it, when the
   * line is full. A task whose signal aborts while it waits leaves the line at once, and the
   * promise rejects with the signal's reason; a running task has to look at the signal itself.
   */
  run<T>(task: () => Promise<T>, signal?: AbortSignal): Promise<T> | undefined {
    if (this.full) return undefined;
    return this.#run(task, signal);
  }

  async #run<T>(task: () => Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    signal?.throwIfAborted();
    if (this.#running < this.#runningMax) this.#running++;
    else await this.#turn(signal);
    try {
      return await task();
    } finally {
      const [next] = this.#waiting;
      // The place passes to the next in line without becoming free, so that no other task slips in.
      if (next === undefined) this.#running--;
      else next();
    }
  }

  #turn(signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const leave = (): void => {
        this.#waiting.delete(onTurn);
        signal?.removeEventListener('abort', onAbort);
      };
      const onTurn = (): void => {
        leave();
        resolve();
      };
      const onAbort = (): void => {
        leave();
        reject(signal?.reason as Error);
      };
      this.#waiting.add(onTurn);
      signal?.addEventListener('abort', onAbort, { once: true });
    });
  }
}
