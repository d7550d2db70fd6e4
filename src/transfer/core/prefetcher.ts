import type { BlockIndex } from '../../image/block.ts';
import type { BlobState } from './core-types.ts';
import { ReadAhead } from './read-ahead.ts';

interface PrefetcherInit<T> {
  /** Maximum number of blocks in flight. */
  readonly max: number;
  readonly isMissing: (blob: BlobState<T>, index: BlockIndex) => boolean;
  /** Fetches the block; then `done()`. */
  readonly start: (blob: BlobState<T>, index: BlockIndex) => void;
}

/**
 * Blocks to fetch before any reader asks: per blob the order in which containers first touch its
 * blocks, or those ahead of a reader that reads in order; the blobs in turn.
 *
 * Every host pulls in that order from its parent, with a bounded number of requests in flight. A
 * request that waits at the parent until the block is there is a credit: the block goes down as
 * soon as it comes, and a host that asks for nothing gets nothing.
 */
export class Prefetcher<T> {
  readonly #init: PrefetcherInit<T>;
  readonly #readAhead = new ReadAhead<T>();
  /** Blobs with blocks still to fetch; the order of the map is the order of turns. */
  readonly #pending = new Map<BlobState<T>, BlockIndex[]>();
  #underWay = 0;

  constructor(init: PrefetcherInit<T>) {
    this.#init = init;
  }

  add(blob: BlobState<T>, indices: readonly BlockIndex[]): void {
    if (indices.length > 0) {
      const pending = this.#pending.get(blob);
      // Reversed, so that the next one is popped off the end.
      const reversed = [...indices].reverse();
      this.#pending.set(blob, pending === undefined ? reversed : [...reversed, ...pending]);
    }
    this.#pump();
  }

  /** Something reads this block: if it reads in order, it will want the next ones. */
  readOn(blob: BlobState<T>, index: BlockIndex): void {
    const indices = this.#readAhead.note(blob, index);
    if (indices.length > 0) this.add(blob, indices);
  }

  /** The blob is forgotten. */
  remove(blob: BlobState<T>): void {
    this.#pending.delete(blob);
  }

  done(): void {
    this.#underWay--;
    this.#pump();
  }

  #pump(): void {
    while (this.#underWay < this.#init.max) {
      const next = this.#next();
      if (next === undefined) return;
      this.#underWay++;
      this.#init.start(next.blob, next.index);
    }
  }

  /** The next block in turn that is missing. */
  #next(): { readonly blob: BlobState<T>; readonly index: BlockIndex } | undefined {
    for (const [blob, pending] of this.#pending) {
      this.#pending.delete(blob);
      for (let index = pending.pop(); index !== undefined; index = pending.pop()) {
        if (!this.#init.isMissing(blob, index)) continue;
        if (pending.length > 0) this.#pending.set(blob, pending);
        return { blob, index };
      }
    }
    return undefined;
  }
}
