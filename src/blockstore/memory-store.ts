import type { BlobRef, BlockIndex } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import { checkBlock, checkSize, stoppedError } from './errors.ts';
import type { BlockStore, BlockStoreStats, StoredBlock } from './store.ts';

interface MemoryBlob {
  readonly blob: BlobRef;
  readonly blocks: Map<BlockIndex, StoredBlock>;
}

/**
 * The store in memory: for the simulator and for tests. Keeps its blocks over `stop()` and `start()`, as a disk would; it is
 * bounded by nothing but the memory.
 */
export class MemoryStore implements BlockStore {
  readonly #blobs = new Map<Digest, MemoryBlob>();
  #running = false;
  #sizeBytes = 0;
  #blockCount = 0;

  start(): Promise<void> {
    this.#running = true;
    return Promise.resolve();
  }

  stop(): Promise<void> {
    this.#running = false;
    return Promise.resolve();
  }

  has(digest: Digest, index: BlockIndex): boolean {
    return this.#running && this.#blobs.get(digest)?.blocks.has(index) === true;
  }

  async get(blob: BlobRef, index: BlockIndex): Promise<StoredBlock | undefined> {
    if (!this.#running) throw stoppedError();
    const known = this.#blobs.get(blob.digest);
    const block = known?.blocks.get(index);
    if (known === undefined || block === undefined) return undefined;
    checkSize(known.blob, blob);
    return { payload: block.payload.retain(), attestation: block.attestation };
  }

  async put(blob: BlobRef, index: BlockIndex, block: StoredBlock): Promise<void> {
    if (!this.#running) throw stoppedError();
    checkBlock(blob, index, block.payload.length);
    const known = this.#blobs.get(blob.digest) ?? { blob, blocks: new Map() };
    checkSize(known.blob, blob);
    if (known.blocks.has(index)) return;
    known.blocks.set(index, {
      payload: block.payload.retain(),
      attestation: block.attestation,
    });
    this.#blobs.set(blob.digest, known);
    this.#blockCount++;
    this.#sizeBytes += block.payload.length;
  }

  async drop(digest: Digest, index: BlockIndex): Promise<void> {
    if (!this.#running) throw stoppedError();
    const known = this.#blobs.get(digest);
    const block = known?.blocks.get(index);
    if (known === undefined || block === undefined) return;
    known.blocks.delete(index);
    if (known.blocks.size === 0) this.#blobs.delete(digest);
    this.#blockCount--;
    this.#sizeBytes -= block.payload.length;
    block.payload.release();
  }

  blobs(): readonly BlobRef[] {
    return this.#running ? Array.from(this.#blobs.values(), ({ blob }) => blob) : [];
  }

  blocksOf(digest: Digest): readonly BlockIndex[] {
    const known = this.#running ? this.#blobs.get(digest) : undefined;
    return known === undefined ? [] : [...known.blocks.keys()].sort((a, b) => a - b);
  }

  stats(): BlockStoreStats {
    if (!this.#running) return { blobCount: 0, blockCount: 0, sizeBytes: 0 };
    return {
      blobCount: this.#blobs.size,
      blockCount: this.#blockCount,
      sizeBytes: this.#sizeBytes,
    };
  }
}
