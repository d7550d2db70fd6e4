/** An entry of a chain. Only the chain changes its links. */
export interface Link<E> {
  older: E | undefined;
  newer: E | undefined;
}

/** A list that needs no memory beside its entries, which are in at most one chain each. */
export class Chain<E extends Link<E>> {
  #oldest: E | undefined;
  #newest: E | undefined;
  #count = 0;

  get count(): number {
    return this.#count;
  }

  get oldest(): E | undefined {
    return this.#oldest;
  }

  get newest(): E | undefined {
    return this.#newest;
  }

  append(entry: E): void {
    entry.older = this.#newest;
    entry.newer = undefined;
    if (this.#newest === undefined) this.#oldest = entry;
    else this.#newest.newer = entry;
    this.#newest = entry;
    this.#count++;
  }

  /** Takes out an entry that is in this chain. It keeps its links, for who iterates. */
  remove({ older, newer }: E): void {
    if (older === undefined) this.#oldest = newer;
    else older.newer = newer;
    if (newer === undefined) this.#newest = older;
    else newer.older = older;
    this.#count--;
  }

  clear(): void {
    this.#oldest = this.#newest = undefined;
    this.#count = 0;
  }

  /** The entries, the oldest first. A removal during the iteration does not end it. */
  *[Symbol.iterator](): Generator<E, void, undefined> {
    for (let entry = this.#oldest; entry !== undefined; entry = entry.newer) yield entry;
  }
}
