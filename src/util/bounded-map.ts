import { assert } from './assert.ts';

/** Bounds of a map, and which entry goes first when one is reached. */
export interface BoundedMapInit<K, V> {
  readonly entriesMax: number;
  /** `age`: the entry that was set longest ago goes first. `use`: the one that was neither set nor got for longest. `age` when absent. */
  readonly evict?: 'age' | 'use';
  /** Bound on the sum of `sizeOf()` over the entries; an entry above it is not kept at all. */
  readonly sizeMax?: number;
  /** Size of an entry in the unit of `sizeMax`, asked once when it is set. */
  readonly sizeOf?: (value: V, key: K) => number;
  /** Called for each entry that a bound pushed out; not for those deleted or replaced. */
  readonly onEvict?: (key: K, value: V) => void;
}

/** A map that forgets instead of growing. */
export class BoundedMap<K, V> implements Iterable<[K, V]> {
  readonly #init: BoundedMapInit<K, V>;
  readonly #entries = new Map<K, { readonly value: V; readonly size: number }>();
  #size = 0;

  constructor(init: BoundedMapInit<K, V>) {
    assert(init.entriesMax > 0, 'a bounded map holds at least one entry');
    this.#init = init;
  }

  /** Entries held. */
  get count(): number {
    return this.#entries.size;
  }

  /** Sum of `sizeOf()` over the entries; 0 without `sizeOf`. */
  get size(): number {
    return this.#size;
  }

  has(key: K): boolean {
    return this.#entries.has(key);
  }

  /** The value; with `evict: 'use'` it is now the one used last. */
  get(key: K): V | undefined {
    const entry = this.#entries.get(key);
    if (entry === undefined) return undefined;
    if (this.#init.evict === 'use') {
      this.#entries.delete(key);
      this.#entries.set(key, entry);
    }
    return entry.value;
  }

  /** The value, without counting as a use. */
  peek(key: K): V | undefined {
    return this.#entries.get(key)?.value;
  }

  set(key: K, value: V): void {
    const { entriesMax, sizeMax = Infinity, sizeOf } = this.#init;
    const size = sizeOf?.(value, key) ?? 0;
    this.delete(key);
    if (size > sizeMax) return this.#init.onEvict?.(key, value);
    this.#entries.set(key, { value, size });
    this.#size += size;
    while (this.#entries.size > entriesMax || this.#size > sizeMax) this.#evictFirst();
  }

  delete(key: K): boolean {
    const entry = this.#entries.get(key);
    if (entry === undefined) return false;
    this.#size -= entry.size;
    return this.#entries.delete(key);
  }

  clear(): void {
    this.#entries.clear();
    this.#size = 0;
  }

  keys(): IterableIterator<K> {
    return this.#entries.keys();
  }

  *values(): Generator<V, void, undefined> {
    for (const { value } of this.#entries.values()) yield value;
  }

  *[Symbol.iterator](): Generator<[K, V], void, undefined> {
    for (const [key, { value }] of this.#entries) yield [key, value];
  }

  #evictFirst(): void {
    for (const [key, { value }] of this.#entries) {
      this.delete(key);
      this.#init.onEvict?.(key, value);
      return;
    }
  }
}
