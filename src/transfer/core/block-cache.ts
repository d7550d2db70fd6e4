import { BoundedMap } from '../../util/bounded-map.ts';
import type { PayloadOps } from './core-types.ts';

interface Entry<P> {
  readonly block: P;
  /** Whether it may be sent to peers: a block that this host read itself as a last resort may not. */
  readonly servable: boolean;
}

/** Hot blocks in memory, least recently used out first, bounded in bytes. Holds (retains) what it keeps. */
export class BlockCache<P> {
  readonly #ops: PayloadOps<P>;
  readonly #entries: BoundedMap<number, Entry<P>>;

  constructor(components: { ops: PayloadOps<P> }, init: { sizeBytesMax: number }) {
    const { ops } = components;
    this.#ops = ops;
    this.#entries = new BoundedMap({
      entriesMax: Infinity,
      evict: 'use',
      sizeMax: init.sizeBytesMax,
      sizeOf: ({ block }) => ops.length(block),
      onEvict: (_, { block }) => ops.release(block),
    });
  }

  get sizeBytes(): number {
    return this.#entries.size;
  }

  /** The entry, which becomes the most recently used one. */
  get(key: number): Entry<P> | undefined {
    return this.#entries.get(key);
  }

  put(key: number, block: P, servable: boolean): void {
    this.delete(key);
    this.#ops.retain(block);
    this.#entries.set(key, { block, servable });
  }

  delete(key: number): void {
    const entry = this.#entries.peek(key);
    if (entry === undefined) return;
    this.#entries.delete(key);
    this.#ops.release(entry.block);
  }

  clear(): void {
    for (const [key] of this.#entries) this.delete(key);
  }
}
