import { assert } from './assert.ts';

/**
 * A rate limit with a burst: over any time, at most `burst` plus the rate times that time passes.
 * The caller passes the time in, in milliseconds; an earlier time than before counts as the latest
 * one. The bucket starts full.
 */
export class TokenBucket {
  readonly #perMs: number;
  readonly #burst: number;
  #level: number;
  #atMs: number | undefined;

  constructor(init: { readonly perSecond: number; readonly burst: number }) {
    assert(init.perSecond > 0 && init.burst > 0, 'perSecond and burst must be positive');
    this.#perMs = init.perSecond / 1000;
    this.#burst = init.burst;
    this.#level = init.burst;
  }

  /** Takes the amount (at most the burst) if the reserve would remain; whether it took it. */
  take(amount: number, nowMs: number, reserve = 0): boolean {
    assert(amount <= this.#burst, `an amount of ${amount} exceeds the burst of ${this.#burst}`);
    this.#fill(nowMs);
    if (this.#level < this.#needed(amount, reserve)) return false;
    this.#level -= amount;
    return true;
  }

  /**
   * Time (clock ms) at which `take()` succeeds if nothing is taken first: `nowMs` if it would now,
   * else at least 1 ms later.
   */
  readyMs(amount: number, nowMs: number, reserve = 0): number {
    this.#fill(nowMs);
    const missing = this.#needed(amount, reserve) - this.#level;
    return missing <= 0 ? nowMs : nowMs + Math.max(1, Math.ceil(missing / this.#perMs));
  }

  #needed(amount: number, reserve: number): number {
    return Math.min(amount + reserve, this.#burst);
  }

  #fill(nowMs: number): void {
    const elapsedMs = Math.max(0, nowMs - (this.#atMs ?? nowMs));
    this.#level = Math.min(this.#burst, this.#level + elapsedMs * this.#perMs);
    this.#atMs = Math.max(nowMs, this.#atMs ?? nowMs);
  }
}
