/**
 * A map for objects of which there are thousands, where most have one entry or none: a `Map` takes
 * 184 bytes even when it is empty. The entries are in the order in which they were set first.
 */
export class SmallMap<K extends NonNullable<unknown>, V> implements Iterable<[K, V]> {
  /** The only entry, without a map. */
  #key: K | undefined;
  #value: V | undefined;
  /** Once there were two entries, until there is none. */
  #map: Map<K, V> | undefined;

  get size(): number {
    return this.#map?.size ?? (this.#key === undefined ? 0 : 1);
  }

  has(key: K): boolean {
    return this.#map?.has(key) ?? this.#key === key;
  }

  get(key: K): V | undefined {
    if (this.#map !== undefined) return this.#map.get(key);
    return this.#key === key ? this.#value : undefined;
  }

  set(key: K, value: V): void {
    if (this.#map === undefined && this.#key !== undefined && this.#key !== key) {
      this.#map = new Map([[this.#key, this.#value as V]]);
      this.#forgetOnly();
    }
    if (this.#map !== undefined) return void this.#map.set(key, value);
    this.#key = key;
    this.#value = value;
  }

  /** Deletes the entry; whether there was one. */
  delete(key: K): boolean {
    if (!this.has(key)) return false;
    if (this.#map === undefined) this.#forgetOnly();
    else this.#map.delete(key);
    if (this.#map?.size === 0) this.#map = undefined;
    return true;
  }

  clear(): void {
    this.#forgetOnly();
    this.#map = undefined;
  }

  keys(): Iterable<K> {
    return this.#map?.keys() ?? (this.#key === undefined ? [] : [this.#key]);
  }

  values(): Iterable<V> {
    return this.#map?.values() ?? (this.#key === undefined ? [] : [this.#value as V]);
  }

  /** An entry that is set during the iteration may be left out. */
  [Symbol.iterator](): Iterator<[K, V]> {
    const only: [K, V][] = this.#key === undefined ? [] : [[this.#key, this.#value as V]];
    return (this.#map ?? only)[Symbol.iterator]();
  }

  #forgetOnly(): void {
    this.#key = undefined;
    this.#value = undefined;
  }
}
