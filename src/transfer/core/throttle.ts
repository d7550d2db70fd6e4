import { BLOCK_SIZE_BYTES } from '../../image/block.ts';
import { TokenBucket } from '../../util/token-bucket.ts';
import type { ReadKind } from '../contracts/blob-reader.ts';

/** Burst after a pause: a quarter of a second's worth, and at least four blocks. (tunable) */
const BURST_SECONDS = 0.25;
const BURST_BYTES_MIN = 4 * BLOCK_SIZE_BYTES;

/**
 * A rate limit for blocks, demand first: a prefetch passes only when it leaves half of the burst.
 * That half is more than any block. So a demand read passes wherever a prefetch would, and the next
 * one does not wait for the share of a prefetch.
 */
export class Throttle {
  readonly #bucket: TokenBucket;
  readonly #reserveBytes: number;
  #heldSinceMs: number | undefined;
  #retryMs = 0;
  #heldMs = 0;

  constructor(init: { readonly bytesPerSecond: number }) {
    const { bytesPerSecond: perSecond } = init;
    const burst = Math.max(BURST_BYTES_MIN, perSecond * BURST_SECONDS);
    this.#bucket = new TokenBucket({ perSecond, burst });
    this.#reserveBytes = burst / 2;
  }

  /**
   * Whether a block of this length may pass now; it then counts as passed. If not, it may at
   * `retryMs`.
   */
  admit(kind: ReadKind, lengthBytes: number, nowMs: number): boolean {
    const reserve = kind === 'demand' ? 0 : this.#reserveBytes;
    if (!this.#bucket.take(lengthBytes, nowMs, reserve)) {
      this.#heldSinceMs ??= nowMs;
      this.#retryMs = this.#bucket.readyMs(lengthBytes, nowMs, reserve);
      return false;
    }
    if (this.#heldSinceMs !== undefined) {
      // The block that was held back may have been withdrawn since.
      this.#heldMs += Math.min(nowMs, this.#retryMs) - this.#heldSinceMs;
      this.#heldSinceMs = undefined;
    }
    return true;
  }

  /** Earliest time at which the last refused block would pass, if nothing else passes first. */
  get retryMs(): number {
    return this.#retryMs;
  }

  /** Time in which something was held back, up to the last time that a block passed. */
  get heldMs(): number {
    return this.#heldMs;
  }
}
