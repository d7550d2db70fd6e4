import { assert } from './assert.ts';

/**
 * A rate with a burst: over any time no more passes than the burst and the rate times that time. Time is passed in, in milliseconds,
 * and never runs back. Starts full.
 */
export class TokenBucket {
  readonly #perMs: number;
  readonly #burst: number;
  #level: number;
  #atMs: number | undefined;

  constructor(init: { readonly perSecond: number; readonly burst: number }) {
    assert(init.perSecond > 0 && init.burst > 0, 'a rate and its burst are more than nothing');
    this.#perMs = init.perSecond / 1000;
    this.#burst = init.burst;
    this.#level = init.burst;
  }

  /** Takes the amount, at most the burst, when it is there and the reserve would be left behind; whether it did. */
  take(amount: number, nowMs: number, reserve = 0): boolean {
    assert(amount <= this.#burst, `${amount} never passes a burst of ${this.#burst}`);
    this.#fill(nowMs);
    if (this.#level < this.#needed(amount, reserve)) return false;
    this.#level -= amount;
    return true;
  }

  /** When `take()` succeeds if nothing is taken until then; at least a millisecond after `nowMs` when it would fail now. */
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
