import { BoundedMap } from './bounded-map.ts';

interface Entry<V> {
  readonly value: V;
  readonly untilMs: number;
}

/** Facts that hold for a time each. Beyond `entriesMax` the fact set longest ago is dropped. */
export class ExpiringMap<V, K = string> {
  readonly #clock: { nowMs(): number };
  readonly #entries: BoundedMap<K, Entry<V>>;

  constructor(components: { clock: { nowMs(): number } }, init: { entriesMax: number }) {
    this.#clock = components.clock;
    this.#entries = new BoundedMap(init);
  }

  /** The value while it holds; undefined once it has expired. */
  get(key: K): V | undefined {
    const entry = this.#entries.get(key);
    return entry !== undefined && this.#clock.nowMs() < entry.untilMs ? entry.value : undefined;
  }

  /** Milliseconds since the value expired, 0 while it holds; undefined without a value. */
  staleMs(key: K): number | undefined {
    const entry = this.#entries.get(key);
    return entry === undefined ? undefined : Math.max(0, this.#clock.nowMs() - entry.untilMs);
  }

  /** The value, expired or not. */
  getStale(key: K): V | undefined {
    return this.#entries.get(key)?.value;
  }

  set(key: K, value: V, lifeMs: number): void {
    this.#entries.set(key, { value, untilMs: this.#clock.nowMs() + lifeMs });
  }

  delete(key: K): void {
    this.#entries.delete(key);
  }
}
