import { assert } from './assert.ts';

/**
 * A set of small integers [0, length) at one bit each, with its members counted. The first 32 need
 * no memory beside the object: a store has a set for each of its blobs, most of them small.
 */
export class BitSet {
  readonly length: number;
  #first = 0;
  /** The words after the first; undefined when there is none. */
  readonly #rest: Uint32Array | undefined;
  #count = 0;

  constructor(length: number) {
    assert(
      Number.isSafeInteger(length) && length >= 0,
      `cannot make a bit set of length ${length}`,
    );
    this.length = length;
    this.#rest = length > 32 ? new Uint32Array(Math.ceil(length / 32) - 1) : undefined;
  }

  /** Number of members. */
  get count(): number {
    return this.#count;
  }

  /** Whether the value is a member; false outside [0, length). */
  has(value: number): boolean {
    return (this.#word(value >>> 5) & (1 << (value & 31))) !== 0;
  }

  /** Adds the value; false when it was a member already. */
  add(value: number): boolean {
    this.#check(value);
    if (this.has(value)) return false;
    this.#flip(value);
    this.#count++;
    return true;
  }

  /** Removes the value; false when it was no member. */
  delete(value: number): boolean {
    this.#check(value);
    if (!this.has(value)) return false;
    this.#flip(value);
    this.#count--;
    return true;
  }

  /** The members, ascending. */
  *values(): IterableIterator<number> {
    for (let word = 0; word * 32 < this.length; word++) {
      let bits = this.#word(word);
      while (bits !== 0) {
        const lowest = bits & -bits;
        yield word * 32 + 31 - Math.clz32(lowest);
        bits ^= lowest;
      }
    }
  }

  #word(at: number): number {
    return at === 0 ? this.#first : (this.#rest?.[at - 1] ?? 0);
  }

  #flip(value: number): void {
    const bit = 1 << (value & 31);
    if (value < 32) this.#first ^= bit;
    else this.#rest![(value >>> 5) - 1]! ^= bit;
  }

  #check(value: number): void {
    assert(
      Number.isInteger(value) && value >= 0 && value < this.length,
      `${value} is outside a bit set of length ${this.length}`,
    );
  }
}
