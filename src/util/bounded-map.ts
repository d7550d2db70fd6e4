import { assert } from './assert.ts';
import { Chain, type Link } from './chain.ts';

/** Bounds of a map, and which entry is evicted first beyond one. */
export interface BoundedMapInit<K, V> {
  readonly entriesMax: number;
  /**
   * `age` (default): the entry set longest ago is evicted first. `use`: the entry neither set nor
   * got for longest.
   */
  readonly evict?: 'age' | 'use';
  /**
   * Bound on the sum of `sizeOf()` over the entries; a larger entry is not kept at all. Unbounded
   * when absent.
   */
  readonly sizeMax?: number;
  /** Size of an entry in the unit of `sizeMax`, asked once, when the entry is set. */
  readonly sizeOf?: (value: V, key: K) => number;
  /** Called for each entry evicted by a bound; not for entries deleted or replaced. */
  readonly onEvict?: (key: K, value: V) => void;
}

interface Entry<K, V> extends Link<Entry<K, V>> {
  readonly key: K;
  readonly value: V;
  readonly size: number;
}

/**
 * A map that evicts entries instead of growing beyond its bounds. Its entries form a list in order
 * of eviction. The order of the Map alone would suffice, but slowly: to find its first key, V8
 * walks over the slots of all keys deleted before (ten microseconds at 10,000 entries).
 */
export class BoundedMap<K, V> implements Iterable<[K, V]> {
  readonly #init: BoundedMapInit<K, V>;
  readonly #entries = new Map<K, Entry<K, V>>();
  readonly #order = new Chain<Entry<K, V>>();
  #size = 0;

  constructor(init: BoundedMapInit<K, V>) {
    assert(init.entriesMax > 0, 'entriesMax of a bounded map must be positive');
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

  /** The value. With `evict: 'use'` its entry is now the last to be evicted. */
  get(key: K): V | undefined {
    const entry = this.#entries.get(key);
    if (entry !== undefined && this.#init.evict === 'use' && entry !== this.#order.newest) {
      this.#order.remove(entry);
      this.#order.append(entry);
    }
    return entry?.value;
  }

  /** The value, without counting as a use of its entry. */
  peek(key: K): V | undefined {
    return this.#entries.get(key)?.value;
  }

  /**
   * Adds or replaces the entry, now the last to be evicted, and evicts entries beyond the bounds.
   */
  set(key: K, value: V): void {
    const { entriesMax, sizeMax = Infinity, sizeOf, onEvict } = this.#init;
    const size = sizeOf?.(value, key) ?? 0;
    this.delete(key);
    if (size > sizeMax) return onEvict?.(key, value);
    const entry: Entry<K, V> = { key, value, size, older: undefined, newer: undefined };
    this.#entries.set(key, entry);
    this.#size += size;
    this.#order.append(entry);
    while (this.#entries.size > entriesMax || this.#size > sizeMax) {
      const { oldest } = this.#order;
      assert(oldest !== undefined, 'a map beyond its bounds has entries');
      this.delete(oldest.key);
      onEvict?.(oldest.key, oldest.value);
    }
  }

  /** Deletes the entry; whether there was one. */
  delete(key: K): boolean {
    const entry = this.#entries.get(key);
    if (entry === undefined) return false;
    this.#size -= entry.size;
    this.#order.remove(entry);
    return this.#entries.delete(key);
  }

  clear(): void {
    this.#entries.clear();
    this.#order.clear();
    this.#size = 0;
  }

  /** The entries, the next to be evicted first. A deletion during the iteration does not end it. */
  *[Symbol.iterator](): Generator<[K, V], void, undefined> {
    for (const { key, value } of this.#order) yield [key, value];
  }
}
