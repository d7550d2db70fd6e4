import type { BlobRef, BlockIndex } from '../image/block.ts';
import type { AttestedBlock } from '../image/attested-block.ts';
import type { Digest } from '../image/digest.ts';
import { defined } from '../util/assert.ts';
import { checkBlock, checkSize, stoppedError } from './errors.ts';
import { GroupTable } from './group-table.ts';
import { groupOf } from './layout.ts';
import type { BlobUsage, BlockStore, BlockStoreStats, Evicted, MatchesDigest } from './store.ts';
import { usageOf } from './usage.ts';

interface MemoryBlob {
  readonly blob: BlobRef;
  readonly blocks: Map<BlockIndex, AttestedBlock>;
}

/**
 * The store in memory, for the simulator and tests. Keeps its blocks over `stop()` and `start()`,
 * as a disk does. It has no quota and no clock, and numbers its uses instead.
 */
export class MemoryStore implements BlockStore {
  readonly #blobs = new Map<Digest, MemoryBlob>();
  readonly #table = new GroupTable();
  #running = false;
  #useCount = 0;

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

  async get(blob: BlobRef, index: BlockIndex): Promise<AttestedBlock | undefined> {
    this.#check();
    const known = this.#blobs.get(blob.digest);
    const block = known?.blocks.get(index);
    if (known === undefined || block === undefined) return undefined;
    checkSize(known.blob, blob);
    this.#withGroup(blob.digest, index, (group) => this.#table.use(group, ++this.#useCount));
    return { payload: block.payload.retain(), attestation: block.attestation };
  }

  async put(blob: BlobRef, index: BlockIndex, block: AttestedBlock): Promise<void> {
    this.#check();
    checkBlock(blob, index, block.payload.length);
    const known = this.#blobs.get(blob.digest) ?? { blob, blocks: new Map() };
    checkSize(known.blob, blob);
    if (known.blocks.has(index)) return;
    const { payload, attestation, blockDigest } = block;
    const kept = { payload: payload.retain(), attestation };
    known.blocks.set(index, blockDigest === undefined ? kept : { ...kept, blockDigest });
    this.#blobs.set(blob.digest, known);
    this.#withGroup(blob.digest, index, (group) =>
      this.#table.addBlock(group, block.payload.length, ++this.#useCount),
    );
  }

  async drop(digest: Digest, index: BlockIndex): Promise<void> {
    this.#check();
    const block = this.#take(digest, index);
    if (block === undefined) return;
    this.#withGroup(digest, index, (group) => this.#table.removeBlock(group, block.payload.length));
    block.payload.release();
  }

  async resize(blob: BlobRef): Promise<void> {
    this.#check();
    const known = this.#blobs.get(blob.digest);
    if (known === undefined || known.blob.sizeBytes === blob.sizeBytes) return;
    for (const index of [...known.blocks.keys()]) await this.drop(blob.digest, index);
  }

  async keepMatching(blob: BlobRef, matches: MatchesDigest): Promise<void> {
    this.#check();
    for (const [index, { blockDigest }] of [...(this.#blobs.get(blob.digest)?.blocks ?? [])]) {
      const isRight = blockDigest !== undefined && matches(index, blockDigest);
      if (!isRight) await this.drop(blob.digest, index);
    }
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
    const { blockCount, sizeBytes } = this.#table;
    return { blobCount: this.#blobs.size, blockCount, sizeBytes };
  }

  usage(): readonly BlobUsage[] {
    return this.#running ? usageOf(this.#table, this.blobs()) : [];
  }

  async pin(digest: Digest): Promise<void> {
    this.#check();
    this.#table.pin(digest);
  }

  async unpin(digest: Digest): Promise<void> {
    this.#check();
    this.#table.unpin(digest);
  }

  retain(digests: readonly Digest[]): void {
    for (const digest of digests) this.#table.retain(digest);
  }

  release(digests: readonly Digest[]): void {
    for (const digest of digests) this.#table.release(digest);
  }

  async gc(options: { readonly targetBytes?: number } = {}): Promise<Evicted> {
    this.#check();
    let [blockCount, sizeBytes] = [0, 0];
    const { targetBytes = Number.POSITIVE_INFINITY } = options;
    while (this.#table.sizeBytes > targetBytes) {
      const group = this.#table.victim('plain');
      if (group === undefined) break;
      this.#table.evict(group);
      blockCount += group.blockCount;
      sizeBytes += group.sizeBytes;
      const { blocks } = defined(this.#blobs.get(group.digest), 'a group belongs to a blob');
      const indices = [...blocks.keys()].filter((index) => groupOf(index) === group.index);
      for (const index of indices) this.#take(group.digest, index)?.payload.release();
    }
    return { blockCount, sizeBytes };
  }

  #take(digest: Digest, index: BlockIndex): AttestedBlock | undefined {
    const known = this.#blobs.get(digest);
    const block = known?.blocks.get(index);
    known?.blocks.delete(index);
    if (known?.blocks.size === 0) this.#blobs.delete(digest);
    return block;
  }

  #withGroup(
    digest: Digest,
    index: BlockIndex,
    action: (group: ReturnType<GroupTable['hold']>) => void,
  ): void {
    const group = this.#table.hold(digest, index);
    action(group);
    this.#table.letGo(group);
  }

  #check(): void {
    if (!this.#running) throw stoppedError();
  }
}
