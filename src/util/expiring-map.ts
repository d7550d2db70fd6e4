import { BoundedMap } from './bounded-map.ts';

interface Entry<V> {
  readonly value: V;
  readonly untilMs: number;
}

/** Facts that hold for a time; at the bound the one set longest ago goes. */
export class ExpiringMap<V, K = string> {
  readonly #clock: { nowMs(): number };
  readonly #entries: BoundedMap<K, Entry<V>>;

  constructor(components: { clock: { nowMs(): number } }, init: { entriesMax: number }) {
    this.#clock = components.clock;
    this.#entries = new BoundedMap(init);
  }

  /** The value, while it holds. */
  get(key: K): V | undefined {
    const entry = this.#entries.get(key);
    return entry !== undefined && this.#clock.nowMs() < entry.untilMs ? entry.value : undefined;
  }

  /** How long ago the value ceased to hold, in milliseconds (0 while it does); undefined when there is none. */
  staleMs(key: K): number | undefined {
    const entry = this.#entries.get(key);
    return entry === undefined ? undefined : Math.max(0, this.#clock.nowMs() - entry.untilMs);
  }

  /** The value, whether it still holds or not. */
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
