import { randomFillSync } from 'node:crypto';
import { assert } from '../../util/assert.ts';
import type { Random } from '../random.ts';

/** Words drawn from the kernel at a time: a draw costs about a microsecond, so that single ones would dominate. */
const WORDS_PER_DRAW = 256;

/** Unpredictable randomness, fit for keys and nonces. */
export class SystemRandom implements Random {
  readonly #words = new Uint32Array(WORDS_PER_DRAW);
  #used = WORDS_PER_DRAW;

  /** 53 random bits, as many as a double's fraction holds. */
  float(): number {
    const high = this.#word() >>> 5;
    const low = this.#word() >>> 6;
    return (high * 2 ** 26 + low) / 2 ** 53;
  }

  /** Scales `float()`: the bias is below limit / 2^53. */
  below(limit: number): number {
    assert(
      Number.isSafeInteger(limit) && limit > 0,
      `a random integer below ${limit} was asked for`,
    );
    return Math.floor(this.float() * limit);
  }

  bytes(count: number): Uint8Array {
    return randomFillSync(new Uint8Array(count));
  }

  #word(): number {
    if (this.#used === WORDS_PER_DRAW) {
      randomFillSync(this.#words);
      this.#used = 0;
    }
    const word = this.#words[this.#used];
    assert(word !== undefined, 'the drawn words hold the next one');
    this.#words[this.#used++] = 0;
    return word;
  }
}
