import { assert } from './assert.ts';

/** Bounds of a map, and which entry goes first when one is reached. */
export interface BoundedMapInit<K, V> {
  readonly entriesMax: number;
  /**
   * `age`: the entry set longest ago goes first. `use`: the one neither set nor got for longest.
   * `age` when absent.
   */
  readonly evict?: 'age' | 'use';
  /** Bound on the sum of `sizeOf()` over the entries; an entry above it is not kept at all. */
  readonly sizeMax?: number;
  /** Size of an entry in the unit of `sizeMax`, asked once when it is set. */
  readonly sizeOf?: (value: V, key: K) => number;
  /** Called for each entry that a bound pushed out; not for those deleted or replaced. */
  readonly onEvict?: (key: K, value: V) => void;
}

interface Entry<K, V> {
  readonly key: K;
  readonly value: V;
  readonly size: number;
  older: Entry<K, V> | undefined;
  newer: Entry<K, V> | undefined;
}

/**
 * A map that forgets instead of growing. Its entries form a list in the order in which they go.
 * The order of the Map alone would do, but slowly: looking for its first key, V8 walks over the
 * places of all keys deleted before (ten microseconds at 10,000 entries).
 */
export class BoundedMap<K, V> implements Iterable<[K, V]> {
  readonly #init: BoundedMapInit<K, V>;
  readonly #entries = new Map<K, Entry<K, V>>();
  #oldest: Entry<K, V> | undefined;
  #newest: Entry<K, V> | undefined;
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

  /** The value; with `evict: 'use'` its entry now goes last. */
  get(key: K): V | undefined {
    const entry = this.#entries.get(key);
    if (entry !== undefined && this.#init.evict === 'use' && entry !== this.#newest) {
      this.#unlink(entry);
      this.#append(entry);
    }
    return entry?.value;
  }

  /** The value, without counting as a use. */
  peek(key: K): V | undefined {
    return this.#entries.get(key)?.value;
  }

  /** Adds or replaces the entry, which now goes last, and evicts what is beyond the bounds. */
  set(key: K, value: V): void {
    const { entriesMax, sizeMax = Infinity, sizeOf, onEvict } = this.#init;
    const size = sizeOf?.(value, key) ?? 0;
    this.delete(key);
    if (size > sizeMax) return onEvict?.(key, value);
    const entry: Entry<K, V> = { key, value, size, older: undefined, newer: undefined };
    this.#entries.set(key, entry);
    this.#size += size;
    this.#append(entry);
    while (this.#entries.size > entriesMax || this.#size > sizeMax) {
      const oldest = this.#oldest;
      assert(oldest !== undefined, 'a map beyond its bounds has entries');
      this.delete(oldest.key);
      onEvict?.(oldest.key, oldest.value);
    }
  }

  /** Whether there was such an entry. */
  delete(key: K): boolean {
    const entry = this.#entries.get(key);
    if (entry === undefined) return false;
    this.#size -= entry.size;
    this.#unlink(entry);
    return this.#entries.delete(key);
  }

  clear(): void {
    this.#entries.clear();
    this.#oldest = this.#newest = undefined;
    this.#size = 0;
  }

  /** Entries, the one that goes first in front. What is deleted meanwhile ends nothing. */
  *[Symbol.iterator](): Generator<[K, V], void, undefined> {
    for (let entry = this.#oldest; entry !== undefined; entry = entry.newer) {
      yield [entry.key, entry.value];
    }
  }

  #append(entry: Entry<K, V>): void {
    entry.older = this.#newest;
    entry.newer = undefined;
    if (this.#newest === undefined) this.#oldest = entry;
    else this.#newest.newer = entry;
    this.#newest = entry;
  }

  #unlink({ older, newer }: Entry<K, V>): void {
    if (older === undefined) this.#oldest = newer;
    else older.newer = newer;
    if (newer === undefined) this.#newest = older;
    else newer.older = older;
  }
}
