import { blockCount, blockIndex, type BlockIndex } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import { DISK_STORE_DEFAULTS } from '../blockstore/limits.ts';
import { BitSet } from '../util/bit-set.ts';
import type { SimBlock } from './blocks.ts';

/** Sequential throughput of a host's disk (NVMe shared with others), in bytes per millisecond. */
const DISK_BYTES_PER_MS = 1_000_000;

/** A slow disk runs at this share of its throughput: 5 MB/s. */
const SLOW_SHARE = 1 / 200;

/** Most bytes that wait for the disk; blocks beyond it are refused (src/blockstore/limits.ts). */
const QUEUE_BYTES_MAX = DISK_STORE_DEFAULTS.queueBytesMax;

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
 * disk accepts nothing more, and the blocks on it stay readable. A slow one takes two hundred times
 * as long, and what waits for it is bounded. Wrong bytes from the disk concern
 * the store's own tests: the store then answers "absent".
 */
export class SimStore {
  full = false;
  slow = false;
  readonly #present = new Map<Digest, BitSet>();
  #pending: { block: SimBlock; durableAtMs: number }[] = [];
  #freeMs = 0;
  /** Bytes that the agent has not heard of as written. */
  #queuedBytes = 0;
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

  /**
   * Takes the block, unless too many bytes wait; the time at which the agent hears of that, and
   * calls `written()`.
   */
  put(block: SimBlock, nowMs: number): { readonly doneMs: number; readonly isRefused: boolean } {
    const isRefused = this.#queuedBytes + block.lengthBytes > QUEUE_BYTES_MAX;
    this.#queuedBytes += block.lengthBytes;
    if (this.full || isRefused) return { doneMs: nowMs, isRefused };
    const { digest, sizeBytes } = block.blob;
    let present = this.#present.get(digest);
    if (present === undefined) {
      present = new BitSet(blockCount(sizeBytes));
      this.#present.set(digest, present);
    }
    if (!present.add(block.index)) return { doneMs: nowMs, isRefused };
    this.#putMs?.set(block, nowMs);
    this.#freeMs = Math.max(nowMs, this.#freeMs) + block.lengthBytes / this.#bytesPerMs;
    this.#pending.push({ block, durableAtMs: this.#freeMs });
    if (this.#pending.length > PENDING_MAX) {
      this.#pending = this.#pending.filter((write) => write.durableAtMs > nowMs);
    }
    return { doneMs: this.#freeMs, isRefused };
  }

  /** The agent heard that the store is done with a block. */
  written(lengthBytes: number): void {
    this.#queuedBytes -= lengthBytes;
  }

  get #bytesPerMs(): number {
    return this.slow ? DISK_BYTES_PER_MS * SLOW_SHARE : DISK_BYTES_PER_MS;
  }

  /** Time at which a read that begins now has its bytes. */
  readDoneMs(block: SimBlock, nowMs: number): number {
    this.#freeMs = Math.max(nowMs, this.#freeMs) + block.lengthBytes / this.#bytesPerMs;
    return this.#freeMs + DISK_LATENCY_MS;
  }

  /** Loses the blocks that are not durable yet: the host went down. */
  crash(nowMs: number): void {
    for (const { block, durableAtMs } of this.#pending) {
      if (durableAtMs > nowMs) this.#present.get(block.blob.digest)?.delete(block.index);
    }
    this.#pending = [];
    this.#queuedBytes = 0;
    this.#freeMs = nowMs;
  }
}
