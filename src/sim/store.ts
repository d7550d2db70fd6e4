import { blockCount, blockIndex, type BlockIndex } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import { BitSet } from '../util/bit-set.ts';
import type { SimBlock } from './blocks.ts';

/** Sequential throughput of a host's disk (NVMe shared with others), in bytes per millisecond. */
const DISK_BYTES_PER_MS = 1_000_000;

/** Time of a read before its first byte, in milliseconds. */
const DISK_LATENCY_MS = 0.1;

/**
 * Maximum number of writes remembered in full that are not durable yet: 256 MiB, more than a second
 * of the NIC.
 */
const PENDING_MAX = 1024;

/**
 * The store of a host: the blocks that it has. It behaves as `BlockStore` does: a block is there
 * after its put, and survives a crash once it is durable.
 *
 * Fault model: a crash loses the blocks that are not durable yet, whole blocks at a time. A full
 * disk accepts nothing more, and the blocks on it stay readable. Wrong bytes from the disk concern
 * the store's own tests: the store then answers "absent".
 */
export class SimStore {
  full = false;
  readonly #present = new Map<Digest, BitSet>();
  #pending: { block: SimBlock; durableAtMs: number }[] = [];
  #freeMs = 0;
  /** Time of each block's put, on stores that are asked for it: on roots. */
  readonly #putMs: Map<SimBlock, number> | undefined;

  constructor(init: { dated: boolean }) {
    this.#putMs = init.dated ? new Map() : undefined;
  }

  /**
   * Time since when the store holds the block; undefined when it does not, and on a store without
   * dates.
   */
  heldSinceMs(block: SimBlock): number | undefined {
    return this.has(block.blob.digest, block.index) ? this.#putMs?.get(block) : undefined;
  }

  has(digest: Digest, index: BlockIndex): boolean {
    return this.#present.get(digest)?.has(index) ?? false;
  }

  blocksOf(digest: Digest): readonly BlockIndex[] {
    const present = this.#present.get(digest);
    return present === undefined ? [] : [...present.values()].map((index) => blockIndex(index));
  }

  put(block: SimBlock, nowMs: number): void {
    if (this.full) return;
    const { digest, sizeBytes } = block.blob;
    let present = this.#present.get(digest);
    if (present === undefined) {
      present = new BitSet(blockCount(sizeBytes));
      this.#present.set(digest, present);
    }
    if (!present.add(block.index)) return;
    this.#putMs?.set(block, nowMs);
    this.#freeMs = Math.max(nowMs, this.#freeMs) + block.lengthBytes / DISK_BYTES_PER_MS;
    this.#pending.push({ block, durableAtMs: this.#freeMs });
    if (this.#pending.length > PENDING_MAX) {
      this.#pending = this.#pending.filter((write) => write.durableAtMs > nowMs);
    }
  }

  /** Time at which a read that begins now has its bytes. */
  readDoneMs(block: SimBlock, nowMs: number): number {
    this.#freeMs = Math.max(nowMs, this.#freeMs) + block.lengthBytes / DISK_BYTES_PER_MS;
    return this.#freeMs + DISK_LATENCY_MS;
  }

  /** Loses the blocks that are not durable yet: the host went down. */
  crash(nowMs: number): void {
    for (const { block, durableAtMs } of this.#pending) {
      if (durableAtMs > nowMs) this.#present.get(block.blob.digest)?.delete(block.index);
    }
    this.#pending = [];
    this.#freeMs = nowMs;
  }
}
