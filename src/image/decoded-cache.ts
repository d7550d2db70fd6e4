import { BoundedMap } from '../util/bounded-map.ts';

/**
 * Cache of decoded blocks of one image's layers: at most `bytesMax`, the least recently used
 * dropped first.
 */
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

  /** The part of one layer, named by its number. */
  ofLayer(layer: number): DecodedCache {
    const key = (block: number): number => layer * 2 ** 32 + block;
    return {
      get: (block) => this.#blocks.get(key(block)),
      set: (block, bytes) => this.#blocks.set(key(block), bytes),
    };
  }
}

/** Cached decoded blocks of one layer. */
export interface DecodedCache {
  get(block: number): Uint8Array | undefined;
  set(block: number, bytes: Uint8Array): void;
}
