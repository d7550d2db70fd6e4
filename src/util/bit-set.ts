import { assert } from './assert.ts';

/** A set of small integers [0, length) at one bit each, with its members counted. */
export class BitSet {
  readonly length: number;
  readonly #words: Uint32Array;
  #count = 0;

  constructor(length: number) {
    assert(
      Number.isSafeInteger(length) && length >= 0,
      `cannot make a bit set of length ${length}`,
    );
    this.length = length;
    this.#words = new Uint32Array(Math.ceil(length / 32));
  }

  /** Number of members. */
  get count(): number {
    return this.#count;
  }

  /** Whether the value is a member; false outside [0, length). */
  has(value: number): boolean {
    return ((this.#words[value >>> 5] ?? 0) & (1 << (value & 31))) !== 0;
  }

  /** Adds the value; false when it was a member already. */
  add(value: number): boolean {
    this.#check(value);
    if (this.has(value)) return false;
    this.#words[value >>> 5]! |= 1 << (value & 31);
    this.#count++;
    return true;
  }

  /** Removes the value; false when it was no member. */
  delete(value: number): boolean {
    this.#check(value);
    if (!this.has(value)) return false;
    this.#words[value >>> 5]! &= ~(1 << (value & 31));
    this.#count--;
    return true;
  }

  /** The members, ascending. */
  *values(): IterableIterator<number> {
    for (let word = 0; word < this.#words.length; word++) {
      let bits = this.#words[word]!;
      while (bits !== 0) {
        const lowest = bits & -bits;
        yield word * 32 + 31 - Math.clz32(lowest);
        bits ^= lowest;
      }
    }
  }

  #check(value: number): void {
    assert(
      Number.isInteger(value) && value >= 0 && value < this.length,
      `${value} is outside a bit set of length ${this.length}`,
    );
  }
}
