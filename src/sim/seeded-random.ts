import type { Random } from '../runtime/random.ts';

/**
 * Random numbers that a seed decides: the same name gives the same numbers on every machine. Each
 * component of the world takes a stream of its own by `split()`, so that one more draw in one
 * component does not shift the numbers of the others.
 *
 * Generator: sfc32 (C. Doty-Humphrey, PractRand), seeded by a 32-bit mix of the name per state
 * word.
 */
export class SeededRandom implements Random {
  readonly #name: string;
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  constructor(name: string) {
    this.#name = name;
    this.#a = mix(name, 0x9e3779b9);
    this.#b = mix(name, 0x85ebca6b);
    this.#c = mix(name, 0xc2b2ae35);
    for (let i = 0; i < WARM_UP; i++) this.#next();
  }

  /** An independent stream for the component of that name. */
  split(name: string): SeededRandom {
    return new SeededRandom(`${this.#name}/${name}`);
  }

  float(): number {
    return ((this.#next() >>> 5) * 2 ** 26 + (this.#next() >>> 6)) / 2 ** 53;
  }

  below(limit: number): number {
    return Math.floor(this.float() * limit);
  }

  bytes(count: number): Uint8Array {
    return Uint8Array.from({ length: count }, () => this.#next() & 0xff);
  }

  /** Uniform in [low, high). */
  between(low: number, high: number): number {
    return low + (high - low) * this.float();
  }

  /** Puts the items into a random order, in place. */
  shuffle<T>(items: T[]): T[] {
    for (let i = items.length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      const item = items[i] as T;
      items[i] = items[j] as T;
      items[j] = item;
    }
    return items;
  }

  #next(): number {
    const sum = (this.#a + this.#b + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + sum) | 0;
    return sum >>> 0;
  }
}

/**
 * Rounds after which every bit of the seed has reached every bit of the state, as the author of
 * sfc32 advises.
 */
const WARM_UP = 12;

function mix(text: string, start: number): number {
  let hash = start | 0;
  for (let i = 0; i < text.length; i++) {
    hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
    hash ^= hash >>> 15;
  }
  hash = Math.imul(hash ^ (hash >>> 16), 0x7feb352d);
  hash = Math.imul(hash ^ (hash >>> 15), 0x846ca68b);
  return hash ^ (hash >>> 16);
}
