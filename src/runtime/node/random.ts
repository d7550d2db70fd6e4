import { randomFillSync } from 'node:crypto';
import { assert } from '../../util/assert.ts';
import type { Random } from '../random.ts';

/**
 * 32-bit words drawn from the kernel at a time. A draw costs about a microsecond: draws of single
 * words would dominate.
 */
const WORDS_PER_DRAW = 256;

/** Unpredictable randomness, fit for keys and nonces. */
export class SystemRandom implements Random {
  readonly #words = new Uint32Array(WORDS_PER_DRAW);
  #used = WORDS_PER_DRAW;

  /** Uniform in [0, 1), of 53 random bits: the precision of a double. */
  float(): number {
    const high = this.#word() >>> 5;
    const low = this.#word() >>> 6;
    return (high * 2 ** 26 + low) / 2 ** 53;
  }

  /** Scales `float()`; the bias is below limit / 2^53. */
  below(limit: number): number {
    assert(Number.isSafeInteger(limit) && limit > 0, `cannot draw a random integer below ${limit}`);
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
