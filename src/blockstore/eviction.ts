import { defined } from '../util/assert.ts';
import type { KeepClass } from './store.ts';

/**
 * Uses of a group closer than this count as one, in milliseconds. A container's start reads a layer in seconds, and prefetch runs
 * less than a minute ahead of the reads; what is used a minute later is used by somebody else, or again.
 */
export const REUSE_GAP_MS = 60_000;

/**
 * Share of the groups of a class that may be proven when one has to go. The rest is where new ones show whether they are used again:
 * with less than a fifth, a container's start would push out its own first blocks. (The usual split of a segmented LRU.)
 */
const PROVEN_SHARE_MAX = 0.8;

/** The classes, first to go first. */
const KEEP_CLASSES: readonly KeepClass[] = ['plain', 'mounted', 'pinned'];

/** What is known of a group's uses. Times in milliseconds since 1970. */
export interface Standing {
  /** Used again, at least `REUSE_GAP_MS` after its first use. */
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
 * In which order groups of blocks go: class by class, in each the fresh ones first, then the proven ones, each least recently used
 * first. A scan, however long, is fresh: it pushes out what was used once, and nothing that proved itself.
 */
export class EvictionOrder<G extends object> {
  readonly #places = new Map<G, Place>();
  readonly #classes: Readonly<Record<KeepClass, Segments<G>>> = {
    plain: segments(),
    mounted: segments(),
    pinned: segments(),
  };

  /** Puts a new group behind all others of its kind. */
  add(group: G, keep: KeepClass, standing: Standing): void {
    const { proven, lastUseMs } = standing;
    this.remove(group);
    this.#places.set(group, { keep, proven, firstUseMs: lastUseMs, lastUseMs });
    this.#segment(keep, proven).add(group);
  }

  /** Notes a use. Clocks that jump shift an order, and harm nothing else. */
  use(group: G, nowMs: number): void {
    const place = this.#placeOf(group);
    place.lastUseMs = nowMs;
    this.#segment(place.keep, place.proven).delete(group);
    if (nowMs - place.firstUseMs >= REUSE_GAP_MS) place.proven = true;
    this.#segment(place.keep, place.proven).add(group);
  }

  /** Gives the group another class; there it counts as the most recently used. */
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

  /** Groups of this class and those below it, first to go first. Proven ones beyond their share have to prove themselves again. */
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
    return defined(this.#places.get(group), 'the group is in the order');
  }
}
