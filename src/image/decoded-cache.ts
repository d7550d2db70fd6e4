import { BoundedMap } from '../util/bounded-map.ts';

/** Decoded blocks of the layers of one image, the least recently used dropped first beyond a bound of bytes. */
export class DecodedBlocks {
  readonly #blocks: BoundedMap<number, Uint8Array>;

  constructor(init: { bytesMax: number }) {
    this.#blocks = new BoundedMap({
      entriesMax: Infinity,
      evict: 'use',
      sizeMax: init.bytesMax,
      sizeOf: ({ length }) => length,
    });
  }

  /** The part that belongs to one layer. */
  ofLayer(layer: number): DecodedCache {
    const key = (block: number): number => layer * 2 ** 32 + block;
    return {
      get: (block) => this.#blocks.get(key(block)),
      set: (block, bytes) => this.#blocks.set(key(block), bytes),
    };
  }
}

/** Decoded blocks of one layer that may still be at hand. */
export interface DecodedCache {
  get(block: number): Uint8Array | undefined;
  set(block: number, bytes: Uint8Array): void;
}
