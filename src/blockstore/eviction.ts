import { defined } from '../util/assert.ts';
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

interface Place {
  keep: KeepClass;
  proven: boolean;
  firstUseMs: number;
  lastUseMs: number;
}

/** Groups of a class, least recently used first. */
interface Segments<G> {
  readonly fresh: Set<G>;
  readonly proven: Set<G>;
}

const segments = <G>(): Segments<G> => ({ fresh: new Set(), proven: new Set() });

/**
 * The order of eviction of groups of blocks: class by class, in each class the fresh groups first,
 * then the proven ones, least recently used first. The groups of a scan, however long, are fresh:
 * they evict groups used once, and no proven ones.
 */
export class EvictionOrder<G extends object> {
  readonly #places = new Map<G, Place>();
  readonly #classes: Readonly<Record<KeepClass, Segments<G>>> = {
    plain: segments(),
    mounted: segments(),
    pinned: segments(),
  };

  /** Adds a group as the last of its class and standing. */
  add(group: G, keep: KeepClass, standing: Standing): void {
    const { proven, lastUseMs } = standing;
    this.remove(group);
    this.#places.set(group, { keep, proven, firstUseMs: lastUseMs, lastUseMs });
    this.#segment(keep, proven).add(group);
  }

  /** Notes a use. A clock that jumps changes the order, and does no other harm. */
  use(group: G, nowMs: number): void {
    const place = this.#placeOf(group);
    place.lastUseMs = nowMs;
    this.#segment(place.keep, place.proven).delete(group);
    if (nowMs - place.firstUseMs >= REUSE_GAP_MS) place.proven = true;
    this.#segment(place.keep, place.proven).add(group);
  }

  /** Moves the group to another class, where it counts as the most recently used. */
  move(group: G, keep: KeepClass): void {
    const place = this.#placeOf(group);
    if (place.keep === keep) return;
    this.#segment(place.keep, place.proven).delete(group);
    place.keep = keep;
    this.#segment(keep, place.proven).add(group);
  }

  remove(group: G): void {
    const place = this.#places.get(group);
    if (place === undefined) return;
    this.#places.delete(group);
    this.#segment(place.keep, place.proven).delete(group);
  }

  has(group: G): boolean {
    return this.#places.has(group);
  }

  standing(group: G): Standing {
    return this.#placeOf(group);
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
    const provenMax = Math.floor((fresh.size + proven.size) * PROVEN_SHARE_MAX);
    for (const group of proven) {
      if (proven.size <= provenMax) return;
      const place = this.#placeOf(group);
      proven.delete(group);
      place.proven = false;
      place.firstUseMs = place.lastUseMs;
      fresh.add(group);
    }
  }

  #segment(keep: KeepClass, proven: boolean): Set<G> {
    return proven ? this.#classes[keep].proven : this.#classes[keep].fresh;
  }

  #placeOf(group: G): Place {
    return defined(this.#places.get(group), 'the order has the group');
  }
}
