/**
 * A set for objects of which there are thousands, where most have one member or none: a `Set` takes
 * 152 bytes even when it is empty. The members are in the order in which they were added.
 */
export class SmallSet<T extends NonNullable<unknown>> implements Iterable<T> {
  /** The only member, without a set. */
  #only: T | undefined;
  /** Once there were two members, until there is none. */
  #set: Set<T> | undefined;

  get size(): number {
    return this.#set?.size ?? (this.#only === undefined ? 0 : 1);
  }

  has(value: T): boolean {
    return this.#set?.has(value) ?? this.#only === value;
  }

  add(value: T): void {
    if (this.has(value)) return;
    if (this.#set !== undefined) return void this.#set.add(value);
    if (this.#only === undefined) {
      this.#only = value;
      return;
    }
    this.#set = new Set([this.#only, value]);
    this.#only = undefined;
  }

  /** Deletes the member; whether it was one. */
  delete(value: T): boolean {
    if (!this.has(value)) return false;
    if (this.#set === undefined) this.#only = undefined;
    else this.#set.delete(value);
    if (this.#set?.size === 0) this.#set = undefined;
    return true;
  }

  clear(): void {
    this.#only = undefined;
    this.#set = undefined;
  }

  /** A member that is added during the iteration may be left out. */
  [Symbol.iterator](): Iterator<T> {
    const only = this.#only === undefined ? [] : [this.#only];
    return (this.#set ?? only)[Symbol.iterator]();
  }
}
