import type { SharedFiles } from './shared-files.ts';

/** A whole block in memory. */
interface HeldBlock {
  readonly bytes: Uint8Array;
  /** BLAKE3 of the bytes. */
  readonly digest: Uint8Array;
}

/** Whole blocks of one mount: as many bytes as it may hold, the least recently used go first. */
export class BlockMemory {
  readonly #shared: Pick<SharedFiles, 'memoryBytesMax'>;
  /** The least recently used first. There are some dozen, so the order of the Map is enough. */
  readonly #blocks = new Map<number, HeldBlock>();
  #sizeBytes = 0;

  constructor(shared: Pick<SharedFiles, 'memoryBytesMax'>) {
    this.#shared = shared;
  }

  get(key: number): HeldBlock | undefined {
    const block = this.#blocks.get(key);
    if (block === undefined) return undefined;
    this.#blocks.delete(key);
    this.#blocks.set(key, block);
    return block;
  }

  set(key: number, block: HeldBlock): void {
    this.delete(key);
    this.#blocks.set(key, block);
    this.#sizeBytes += block.bytes.length;
    for (const oldest of this.#blocks.keys()) {
      if (this.#sizeBytes <= this.#shared.memoryBytesMax) break;
      this.delete(oldest);
    }
  }

  delete(key: number): void {
    const block = this.#blocks.get(key);
    if (block === undefined) return;
    this.#blocks.delete(key);
    this.#sizeBytes -= block.bytes.length;
  }
}
