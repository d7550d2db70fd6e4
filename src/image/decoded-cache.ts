/** Decoded blocks of the layers of one image, the least recently used dropped first beyond a bound of bytes. */
export class DecodedBlocks {
  readonly #bytesMax: number;
  readonly #blocks = new Map<number, Uint8Array>();
  #sizeBytes = 0;

  constructor(init: { bytesMax: number }) {
    this.#bytesMax = init.bytesMax;
  }

  /** The part that belongs to one layer. */
  ofLayer(layer: number): DecodedCache {
    const key = (block: number): number => layer * 2 ** 32 + block;
    return {
      get: (block) => this.#get(key(block)),
      set: (block, bytes) => this.#set(key(block), bytes),
    };
  }

  #get(key: number): Uint8Array | undefined {
    const bytes = this.#blocks.get(key);
    if (bytes === undefined) return undefined;
    this.#blocks.delete(key);
    this.#blocks.set(key, bytes);
    return bytes;
  }

  #set(key: number, bytes: Uint8Array): void {
    if (bytes.length > this.#bytesMax) return;
    this.#sizeBytes += bytes.length - (this.#blocks.get(key)?.length ?? 0);
    this.#blocks.delete(key);
    this.#blocks.set(key, bytes);
    for (const [oldest, old] of this.#blocks) {
      if (this.#sizeBytes <= this.#bytesMax) break;
      this.#blocks.delete(oldest);
      this.#sizeBytes -= old.length;
    }
  }
}

/** Decoded blocks of one layer that may still be at hand. */
export interface DecodedCache {
  get(block: number): Uint8Array | undefined;
  set(block: number, bytes: Uint8Array): void;
}
