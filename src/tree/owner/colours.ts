import { assert } from '../../util/assert.ts';
import { COLOURS, INNER_CHILDREN } from '../limits.ts';

/** Index of the least amount; the first of equals. */
function least(amounts: readonly number[]): number {
  return amounts.indexOf(Math.min(...amounts));
}

/**
 * Assigns the colours of the hosts and the trees of one owner. A host is an inner member of the
 * trees of its colour, so this class balances both: hosts by number in each zone, trees by bytes.
 * Owners need not agree: each balances its own trees.
 */
export class Colours {
  readonly count: number;
  readonly #treeBytes: number[];
  readonly #hosts = new Map<string, number[]>();

  /** With a `count` of 1 every host is an inner member everywhere. */
  constructor(init: { count: number }) {
    assert(Number.isInteger(init.count) && init.count >= 1, `${init.count} colours of trees`);
    this.count = init.count;
    this.#treeBytes = this.#zeros();
  }

  paintHost(zone: string): number {
    const counts = this.#hosts.get(zone) ?? this.#zeros();
    this.#hosts.set(zone, counts);
    const colour = least(counts);
    counts[colour] = (counts[colour] ?? 0) + 1;
    return colour;
  }

  dropHost(zone: string, colour: number): void {
    const counts = this.#hosts.get(zone);
    if (counts === undefined) return;
    counts[colour] = (counts[colour] ?? 0) - 1;
    if (counts.every((count) => count === 0)) this.#hosts.delete(zone);
  }

  /** `sizeBytes`: bytes that the tree carries to each member. */
  paintTree(sizeBytes: number): number {
    const colour = least(this.#treeBytes);
    this.#treeBytes[colour] = (this.#treeBytes[colour] ?? 0) + sizeBytes;
    return colour;
  }

  dropTree(colour: number, sizeBytes: number): void {
    this.#treeBytes[colour] = (this.#treeBytes[colour] ?? 0) - sizeBytes;
  }

  #zeros(): number[] {
    return Array.from({ length: this.count }, () => 0);
  }
}

/**
 * Children of a host in the trees of its colour: `fanOut` of its own colour, and one of each other.
 */
export function innerFanOut(fanOut: number, colourCount: number): number {
  return fanOut + colourCount - 1;
}

/** Most children of a host in one tree: 5. */
export const CHILDREN_MAX = innerFanOut(INNER_CHILDREN, COLOURS);

/**
 * Children of the owner in each of its trees. Each of `rootCount` roots sends its share of the
 * blobs once to each of these children: so it sends about as much as a host does, and with few
 * roots no more often than it must.
 */
export function ownerFanOut(fanOut: number, colourCount: number, rootCount: number): number {
  return Math.min(innerFanOut(fanOut, colourCount), Math.max(fanOut, rootCount + 1));
}
