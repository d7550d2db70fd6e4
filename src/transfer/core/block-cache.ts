import type { PayloadOps } from './core-types.ts';

interface Entry<P> {
  readonly block: P;
  /** Whether it may be sent to peers: a block that this host read itself as a last resort may not. */
  readonly servable: boolean;
}

/** Hot blocks in memory, least recently used out first, bounded in bytes. Holds (retains) what it keeps. */
export class BlockCache<P> {
  readonly #ops: PayloadOps<P>;
  readonly #sizeBytesMax: number;
  readonly #entries = new Map<number, Entry<P>>();
  #sizeBytes = 0;

  constructor(components: { ops: PayloadOps<P> }, init: { sizeBytesMax: number }) {
    this.#ops = components.ops;
    this.#sizeBytesMax = init.sizeBytesMax;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** The entry, which becomes the most recently used one. */
  get(key: number): Entry<P> | undefined {
    const entry = this.#entries.get(key);
    if (entry === undefined) return undefined;
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    return entry;
  }

  put(key: number, block: P, servable: boolean): void {
    this.delete(key);
    this.#ops.retain(block);
    this.#entries.set(key, { block, servable });
    this.#sizeBytes += this.#ops.length(block);
    for (const oldest of this.#entries.keys()) {
      if (this.#sizeBytes <= this.#sizeBytesMax) break;
      this.delete(oldest);
    }
  }

  delete(key: number): void {
    const entry = this.#entries.get(key);
    if (entry === undefined) return;
    this.#entries.delete(key);
    this.#sizeBytes -= this.#ops.length(entry.block);
    this.#ops.release(entry.block);
  }

  clear(): void {
    for (const key of [...this.#entries.keys()]) this.delete(key);
  }
}
