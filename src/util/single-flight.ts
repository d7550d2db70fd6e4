/**
 * Lets callers that ask for the same key at the same time share one task and its outcome. No caller
 * owns the task: a caller that gives up leaves by `orAbort()`, and the task limits its own time.
 * After the task has settled, the next caller starts a new one.
 */
export class SingleFlight<K, V> {
  readonly #running = new Map<K, Promise<V>>();

  /** Tasks in flight. */
  get size(): number {
    return this.#running.size;
  }

  has(key: K): boolean {
    return this.#running.has(key);
  }

  /**
   * The outcome of the task in flight for `key`. When there is none, starts `task` at once and
   * gives its outcome.
   */
  run(key: K, task: () => Promise<V>): Promise<V> {
    const running = this.#running.get(key);
    if (running !== undefined) return running;
    const begin = async (): Promise<V> => task();
    const started = begin().finally(() => this.#running.delete(key));
    this.#running.set(key, started);
    return started;
  }
}
