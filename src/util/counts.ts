/** Counts by key. Nothing is kept of a key whose count is 0. */
export class Counts<K> {
  readonly #counts = new Map<K, number>();

  /** Keys with a count. */
  get size(): number {
    return this.#counts.size;
  }

  has(key: K): boolean {
    return this.#counts.has(key);
  }

  of(key: K): number {
    return this.#counts.get(key) ?? 0;
  }

  keys(): Iterable<K> {
    return this.#counts.keys();
  }

  /** One more. */
  add(key: K): void {
    this.#counts.set(key, this.of(key) + 1);
  }

  /** One less, down to 0; gives what is left. */
  remove(key: K): number {
    const left = Math.max(0, this.of(key) - 1);
    if (left > 0) this.#counts.set(key, left);
    else this.#counts.delete(key);
    return left;
  }
}
