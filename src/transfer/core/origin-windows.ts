import type { Attempt, CoreInit, SourceWindow } from './core-types.ts';
import { noteLate } from './attempts.ts';
import { makeWindow, nextPrefetch } from './source-window.ts';

/** Share of the reads in flight at registries that each registry has for itself. (tunable) */
const OWN_SHARE = 1 / 4;

/**
 * Reads that stay open beyond their places; when there are more, a read that hangs is given up.
 * Many prefetches are one request. (tunable)
 */
const LATE_MAX = { demand: 32, prefetch: 128 };

/** Registries told apart: more than anybody configures. All beyond this count as one. */
const REGISTRIES_MAX = 64;

/**
 * Reads in flight at registries. Each registry has a quarter for itself, so that a slow or silent
 * registry takes nothing from the others. The rest goes to the registry with the fewest reads
 * first. A registry that is alone has all of it.
 */
export class OriginWindows<T> {
  readonly #ownMax: number;
  readonly #sharedMax: number;
  readonly #prefetchMax: number;
  readonly #windows = new Map<string, SourceWindow<T>>();
  readonly #late = new Set<Attempt<T>>();

  constructor({ originOutstandingMax: max }: Pick<CoreInit, 'originOutstandingMax'>) {
    this.#ownMax = Math.max(1, Math.floor(max * OWN_SHARE));
    this.#sharedMax = max - this.#ownMax;
    // A registry is further away than a parent: with few requests in flight its capacity is not
    // used.
    this.#prefetchMax = Math.ceil((max * 3) / 4);
  }

  /** The registry that `key` names. */
  of(key: string): SourceWindow<T> {
    const known = this.#windows.get(key);
    if (known !== undefined) return known;
    if (key !== '' && this.#windows.size >= REGISTRIES_MAX) return this.of('');
    const window = makeWindow<T>(undefined);
    this.#windows.set(key, window);
    return window;
  }

  /** The read to ask for next, at any registry: demand first. Undefined when there is no room. */
  next(): Attempt<T> | undefined {
    const open = this.#open();
    const fewest = (kind: 'demand' | 'prefetch'): Attempt<T> | undefined => {
      let best: SourceWindow<T> | undefined;
      for (const window of open) {
        if (window[kind].length === 0) continue;
        if (kind === 'prefetch' && window.prefetchAsked >= this.#prefetchMax) continue;
        if (best === undefined || window.asked.size < best.asked.size) best = window;
      }
      return kind === 'demand' ? best?.demand[0] : best && nextPrefetch(best);
    };
    return fewest('demand') ?? fewest('prefetch');
  }

  /**
   * A read that hangs stays open and gives up its place: a cache that fetches the blob first begins
   * anew when its client goes away. False when too many do already.
   */
  leave(attempt: Attempt<T>): boolean {
    if (this.#late.has(attempt)) return true;
    const alike = [...this.#late].filter(({ kind }) => kind === attempt.kind);
    if (alike.length >= LATE_MAX[attempt.kind]) return false;
    this.#late.add(attempt);
    attempt.window.asked.delete(attempt);
    if (attempt.kind === 'prefetch') noteLate(attempt);
    return true;
  }

  /** The read has ended; whether it had given up its place. */
  forget(attempt: Attempt<T>): boolean {
    return this.#late.delete(attempt);
  }

  /** Registries that may be asked for more. */
  #open(): readonly SourceWindow<T>[] {
    let shared = 0;
    for (const { asked } of this.#windows.values()) {
      shared += Math.max(0, asked.size - this.#ownMax);
    }
    const isFree = shared < this.#sharedMax;
    return [...this.#windows.values()].filter(({ asked }) => isFree || asked.size < this.#ownMax);
  }
}
