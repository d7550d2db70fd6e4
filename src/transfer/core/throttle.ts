import { BLOCK_SIZE_BYTES } from '../../image/block.ts';
import { TokenBucket } from '../../util/token-bucket.ts';
import type { ReadKind } from '../contracts/blob-reader.ts';

/**
 * What may pass at once after a pause: a quarter of a second's worth, and four blocks at least.
 * (tunable)
 */
const BURST_SECONDS = 0.25;
const BURST_BYTES_MIN = 4 * BLOCK_SIZE_BYTES;

/**
 * A rate limit for blocks, demand first: a prefetch passes only when half of the burst is left
 * behind it. That is more than any block, so wherever a prefetch passes a demand read would too,
 * and one that comes next does not wait for what a prefetch took.
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
   * Whether a block of this length may pass now; it counts as passed then. If not, it may at
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
      // What was held back may have been withdrawn since.
      this.#heldMs += Math.min(nowMs, this.#retryMs) - this.#heldSinceMs;
      this.#heldSinceMs = undefined;
    }
    return true;
  }

  /** When the block that was not admitted last is, if nothing else passes until then. */
  get retryMs(): number {
    return this.#retryMs;
  }

  /** Time in which something was held back, up to the last time that something passed. */
  get heldMs(): number {
    return this.#heldMs;
  }
}
