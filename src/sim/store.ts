import { blockCount, blockIndex, type BlockIndex } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import { BitSet } from '../util/bit-set.ts';
import type { SimBlock } from './blocks.ts';

/** Sequential throughput of a host's disk (NVMe shared with others), in bytes per millisecond. */
const DISK_BYTES_PER_MS = 1_000_000;

/** Time of a read before its first byte, in milliseconds. */
const DISK_LATENCY_MS = 0.1;

/** Writes that are not durable yet are remembered in full up to this many: 256 MiB, more than a second of the NIC. */
const PENDING_MAX = 1024;

/**
 * The store of a host: which blocks it has. Behaves as `BlockStore` does: a block is there once it was put, and survives a crash
 * once it is durable.
 *
 * Fault model: a crash loses what was not durable yet, whole blocks at a time; a full disk takes nothing more, and what it has
 * stays readable. Wrong bytes from the disk are the store's own tests' business: it answers "absent" then.
 */
export class SimStore {
  full = false;
  readonly #present = new Map<Digest, BitSet>();
  #pending: { block: SimBlock; durableAtMs: number }[] = [];
  #freeMs = 0;
  /** When each block was put, where that is asked: on roots. */
  readonly #putMs: Map<SimBlock, number> | undefined;

  constructor(init: { dated: boolean }) {
    this.#putMs = init.dated ? new Map() : undefined;
  }

  /** Since when the block is here; undefined when it is not, and on a store without dates. */
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

  /** When a read that begins now has its bytes. */
  readDoneMs(block: SimBlock, nowMs: number): number {
    this.#freeMs = Math.max(nowMs, this.#freeMs) + block.lengthBytes / DISK_BYTES_PER_MS;
    return this.#freeMs + DISK_LATENCY_MS;
  }

  /** The host went down. */
  crash(nowMs: number): void {
    for (const { block, durableAtMs } of this.#pending) {
      if (durableAtMs > nowMs) this.#present.get(block.blob.digest)?.delete(block.index);
    }
    this.#pending = [];
    this.#freeMs = nowMs;
  }
}
