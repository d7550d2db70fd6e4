/** Runs at most so many tasks at a time; the others wait in the order of their coming. */
export class Limiter {
  readonly #runningMax: number;
  readonly #waitingMax: number;
  readonly #waiting: (() => void)[] = [];
  #running = 0;

  /** `waitingMax` bounds the line: see `run()`. */
  constructor(init: { runningMax: number; waitingMax: number }) {
    this.#runningMax = init.runningMax;
    this.#waitingMax = init.waitingMax;
  }

  /** Whether another task would find no place, not even in the line. */
  get full(): boolean {
    return this.#running >= this.#runningMax && this.#waiting.length >= this.#waitingMax;
  }

  /** Runs the task when its turn comes. Undefined, at once and without running it, when the line is full. */
  run<T>(task: () => Promise<T>): Promise<T> | undefined {
    if (this.full) return undefined;
    return this.#run(task);
  }

  async #run<T>(task: () => Promise<T>): Promise<T> {
    if (this.#running < this.#runningMax) this.#running++;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      return await task();
    } finally {
      const next = this.#waiting.shift();
      // The place passes to the next in line without becoming free, so that nobody slips in between.
      if (next === undefined) this.#running--;
      else next();
    }
  }
}
