import { outOfRange } from './errors.ts';

/**
 * What the indices of layers may take in memory together. The maker of an image chooses how many
 * layers it has, and may name one that is small on the wire and large in memory 255 times.
 */
export class IndexBudget {
  #entries: number;
  #blocks: number;

  constructor(init: { entriesMax: number; blocksMax: number }) {
    this.#entries = init.entriesMax;
    this.#blocks = init.blocksMax;
  }

  /** Before entries of an LSMT index are read. Throws ImageError. */
  takeEntries(count: number): void {
    const left = this.#entries;
    if (count > left) throw outOfRange('LSMT index_size', count, tooMany(left));
    this.#entries -= count;
  }

  /** Before entries of a ZFile's jump table are read. Throws ImageError. */
  takeBlocks(count: number): void {
    const left = this.#blocks;
    if (count > left) throw outOfRange('ZFile index_size', count, tooMany(left));
    this.#blocks -= count;
  }
}

function tooMany(left: number): string {
  return `at most ${left} more are read of the layers of one image`;
}
