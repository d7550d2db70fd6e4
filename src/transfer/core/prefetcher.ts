import type { BlockIndex } from '../../image/block.ts';
import type { BlobState } from './core-types.ts';

/**
 * Blocks to fetch before any reader asks: per blob the order in which containers first touch its
 * blocks, the blobs in turn.
 *
 * Every host pulls in that order from its parent, with a bounded number of requests in flight. A
 * request that waits at the parent until the block is there is a credit: the block goes down as
 * soon as it comes, and a host that asks for nothing gets nothing.
 */
export class Prefetcher<T> {
  /** Blobs with blocks still to fetch; the order of the map is the order of turns. */
  readonly #pending = new Map<BlobState<T>, BlockIndex[]>();
  #underWay = 0;

  get underWay(): number {
    return this.#underWay;
  }

  add(blob: BlobState<T>, indices: readonly BlockIndex[]): void {
    if (indices.length === 0) return;
    const pending = this.#pending.get(blob);
    // Reversed, so that the next one is popped off the end.
    const reversed = [...indices].reverse();
    this.#pending.set(blob, pending === undefined ? reversed : [...reversed, ...pending]);
  }

  /** The next block in turn that `isMissing`; it counts as in flight until `done()`. */
  next(
    isMissing: (blob: BlobState<T>, index: BlockIndex) => boolean,
  ): { blob: BlobState<T>; index: BlockIndex } | undefined {
    for (const [blob, pending] of this.#pending) {
      this.#pending.delete(blob);
      for (let index = pending.pop(); index !== undefined; index = pending.pop()) {
        if (!isMissing(blob, index)) continue;
        if (pending.length > 0) this.#pending.set(blob, pending);
        this.#underWay++;
        return { blob, index };
      }
    }
    return undefined;
  }

  /** The blob is forgotten. */
  remove(blob: BlobState<T>): void {
    this.#pending.delete(blob);
  }

  done(): void {
    this.#underWay--;
  }
}
