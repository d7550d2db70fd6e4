import { assert } from '../util/assert.ts';
import { Chain, type Link } from '../util/chain.ts';
import type { KeepClass } from './store.ts';

/**
 * Uses of a group closer than this many milliseconds count as one. A container's start reads a
 * layer in seconds, and prefetch runs less than a minute ahead of the reads: a use a minute later
 * is by another container, or a repeated one.
 */
export const REUSE_GAP_MS = 60_000;

/**
 * Largest share of proven groups in a class when a group must be evicted. In the rest, new groups
 * show whether they are used again: with less than a fifth, a container's start would evict its own
 * first blocks. (The usual split of a segmented LRU.)
 */
const PROVEN_SHARE_MAX = 0.8;

/** The classes in order of eviction. */
const KEEP_CLASSES: readonly KeepClass[] = ['plain', 'mounted', 'pinned'];

/** What the store knows of a group's uses. Times are milliseconds since 1970. */
export interface Standing {
  /** Whether it was used again at least `REUSE_GAP_MS` after its first use. */
  readonly proven: boolean;
  readonly lastUseMs: number;
}

/**
 * What the order keeps of a group, in the group itself: a store has many thousands. Only the order
 * changes it.
 */
export class Ordered<G> implements Standing, Link<G> {
  /** Undefined while the group is not in the order. */
  keep: KeepClass | undefined;
  proven = false;
  firstUseMs = 0;
  lastUseMs = 0;
  older: G | undefined;
  newer: G | undefined;
}

/** Groups of a class, least recently used first. */
interface Segments<G extends Link<G>> {
  readonly fresh: Chain<G>;
  readonly proven: Chain<G>;
}

function segments<G extends Link<G>>(): Segments<G> {
  return { fresh: new Chain(), proven: new Chain() };
}

/**
 * The order of eviction of groups of blocks: class by class, in each class the fresh groups first,
 * then the proven ones, least recently used first. The groups of a scan, however long, are fresh:
 * they evict groups used once, and no proven ones.
 */
export class EvictionOrder<G extends Ordered<G>> {
  readonly #classes: Readonly<Record<KeepClass, Segments<G>>> = {
    plain: segments(),
    mounted: segments(),
    pinned: segments(),
  };

  /** Adds a group as the last of its class and standing. */
  add(group: G, keep: KeepClass, standing: Standing): void {
    const { proven, lastUseMs } = standing;
    this.remove(group);
    group.proven = proven;
    group.firstUseMs = group.lastUseMs = lastUseMs;
    this.#append(group, keep);
  }

  /** Notes a use. A clock that jumps changes the order, and does no other harm. */
  use(group: G, nowMs: number): void {
    const keep = this.#take(group);
    group.lastUseMs = nowMs;
    if (nowMs - group.firstUseMs >= REUSE_GAP_MS) group.proven = true;
    this.#append(group, keep);
  }

  /** Moves the group to another class, where it counts as the most recently used. */
  move(group: G, keep: KeepClass): void {
    if (group.keep === keep) return;
    this.#take(group);
    this.#append(group, keep);
  }

  remove(group: G): void {
    if (group.keep !== undefined) this.#take(group);
  }

  has(group: G): boolean {
    return group.keep !== undefined;
  }

  /**
   * Groups up to this class, in order of eviction. Proven groups beyond their share become fresh
   * again.
   */
  *candidates(keepMax: KeepClass): IterableIterator<G> {
    for (const keep of KEEP_CLASSES) {
      this.#demote(keep);
      yield* this.#classes[keep].fresh;
      yield* this.#classes[keep].proven;
      if (keep === keepMax) return;
    }
  }

  /** All groups: class by class, fresh before proven, least recently used first. */
  *groups(): IterableIterator<G> {
    for (const keep of KEEP_CLASSES) {
      yield* this.#classes[keep].fresh;
      yield* this.#classes[keep].proven;
    }
  }

  #demote(keep: KeepClass): void {
    const { fresh, proven } = this.#classes[keep];
    const provenMax = Math.floor((fresh.count + proven.count) * PROVEN_SHARE_MAX);
    while (proven.count > provenMax && proven.oldest !== undefined) {
      const group = proven.oldest;
      this.#take(group);
      group.proven = false;
      group.firstUseMs = group.lastUseMs;
      this.#append(group, keep);
    }
  }

  #append(group: G, keep: KeepClass): void {
    group.keep = keep;
    this.#segment(keep, group.proven).append(group);
  }

  /** Takes the group out of the order; returns its class. */
  #take(group: G): KeepClass {
    const { keep } = group;
    assert(keep !== undefined, 'the order has the group');
    this.#segment(keep, group.proven).remove(group);
    group.keep = group.older = group.newer = undefined;
    return keep;
  }

  #segment(keep: KeepClass, proven: boolean): Chain<G> {
    return proven ? this.#classes[keep].proven : this.#classes[keep].fresh;
  }
}
