import { BoundedMap } from '../../util/bounded-map.ts';
import type { PayloadOps } from './core-types.ts';
import type { SmallSet } from '../../util/small-set.ts';

interface Entry<P> {
  readonly block: P;
  /** Whether it may be sent to peers: not a block that this host read itself as a last resort. */
  readonly servable: boolean;
  /** Where its blob notes which of its blocks are here. */
  readonly keys: SmallSet<number>;
}

/** What an entry takes beside its payload: objects, maps, an attestation. */
const ENTRY_BYTES = 1024;

/** Hot blocks in memory, least recently used out first, bounded in bytes. Retains its blocks. */
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
      sizeOf: ({ block }) => ops.length(block) + ENTRY_BYTES,
      onEvict: (key, { block, keys }) => {
        keys.delete(key);
        ops.release(block);
      },
    });
  }

  get sizeBytes(): number {
    return this.#entries.size;
  }

  /** The entry, which becomes the most recently used one. */
  get(key: number): Entry<P> | undefined {
    return this.#entries.get(key);
  }

  put(key: number, entry: Entry<P>): void {
    this.delete(key);
    this.#ops.retain(entry.block);
    entry.keys.add(key);
    this.#entries.set(key, entry);
  }

  delete(key: number): void {
    const entry = this.#entries.peek(key);
    if (entry === undefined) return;
    this.#entries.delete(key);
    entry.keys.delete(key);
    this.#ops.release(entry.block);
  }

  clear(): void {
    for (const [key] of this.#entries) this.delete(key);
  }
}
