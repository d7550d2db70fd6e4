import { assert } from './assert.ts';

/** Integers from `start` on, before `end`. */
export interface Interval {
  readonly start: number;
  readonly end: number;
}

/** A set of integers, kept as sorted intervals with gaps between them. */
export class IntervalSet {
  readonly #starts: number[] = [];
  readonly #ends: number[] = [];

  /** Number of intervals. */
  get count(): number {
    return this.#starts.length;
  }

  /** Adds [start, end); gives the parts of it that were not in the set, in order. */
  add(start: number, end: number): readonly Interval[] {
    assert(start <= end, `an interval from ${start} to ${end} goes forward`);
    if (start === end) return [];
    const first = this.#firstEndingFrom(start);
    let last = first;
    let at = start;
    const added: Interval[] = [];
    for (; last < this.count && (this.#starts[last] ?? 0) <= end; last++) {
      const [from, to] = [this.#starts[last] ?? 0, this.#ends[last] ?? 0];
      if (at < from) added.push({ start: at, end: from });
      at = Math.max(at, to);
    }
    if (at < end) added.push({ start: at, end });
    if (added.length === 0) return added;
    const from = first < last ? Math.min(start, this.#starts[first] ?? 0) : start;
    this.#starts.splice(first, last - first, from);
    this.#ends.splice(first, last - first, Math.max(end, at));
    return added;
  }

  /** Number of the first interval that ends at `value` or later. */
  #firstEndingFrom(value: number): number {
    let [low, high] = [0, this.count];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#ends[middle] ?? 0) < value) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
