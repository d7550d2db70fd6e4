import { stripeCount } from '../../image/block.ts';
import type { Entry } from './open-blob-entry.ts';
import type { OpenBlobsInit } from './open-blob-types.ts';

type Init = Pick<OpenBlobsInit, 'entriesMax' | 'stripesMax' | 'idleMs'>;

/**
 * The entries of `OpenBlobs`, in the order of use. The least recently used ones that no request
 * waits for close when there are too many, or when the trees of the shared ones are.
 */
export class OpenBlobTable<T> {
  readonly #init: Init;
  readonly #onClose: (entry: Entry<T>) => void;
  readonly #entries = new Map<string, Entry<T>>();
  /** Blobs that are read alone because no root answered. */
  readonly #unanswered = new Set<Entry<T>>();
  #stripes = 0;

  constructor(init: Init, onClose: (entry: Entry<T>) => void) {
    this.#init = init;
    this.#onClose = onClose;
  }

  get size(): number {
    return this.#entries.size;
  }

  get(id: string): Entry<T> | undefined {
    return this.#entries.get(id);
  }

  values(): Iterable<Entry<T>> {
    return this.#entries.values();
  }

  add(entry: Entry<T>): void {
    if (this.#entries.size >= this.#init.entriesMax) this.#closeOne(entry);
    this.#entries.set(entry.id, entry);
  }

  /** Marks the entry as used last. */
  use(entry: Entry<T>, nowMs: number): void {
    entry.usedMs = nowMs;
    this.#entries.delete(entry.id);
    this.#entries.set(entry.id, entry);
  }

  /** The entry has another state or blob: this host is in the trees of those that are shared. */
  changed(entry: Entry<T>): void {
    const { blob, phase } = entry;
    const stripes = phase === 'shared' && blob !== undefined ? stripeCount(blob.sizeBytes) : 0;
    this.#stripes += stripes - entry.stripes;
    entry.stripes = stripes;
    while (this.#stripes > this.#init.stripesMax && this.#closeOne(entry));
  }

  /** The blob is read alone, because no root answered. */
  unanswered(entry: Entry<T>): void {
    this.#unanswered.add(entry);
  }

  /** A root answers: roots are asked again about all that is read alone since none did. */
  rootsAreBack(nowMs: number): void {
    for (const entry of this.#unanswered) entry.untilMs = Math.min(entry.untilMs, nowMs);
    this.#unanswered.clear();
  }

  closeIdle(nowMs: number): void {
    for (const entry of this.#entries.values()) {
      if (nowMs - entry.usedMs < this.#init.idleMs || entry.waiting.size > 0) return;
      this.#close(entry);
    }
  }

  /** Closes the one used least recently, but not this one; whether there was any. */
  #closeOne(but: Entry<T>): boolean {
    for (const entry of this.#entries.values()) {
      if (entry === but || entry.waiting.size > 0) continue;
      this.#close(entry);
      return true;
    }
    return false;
  }

  #close(entry: Entry<T>): void {
    this.#entries.delete(entry.id);
    this.#unanswered.delete(entry);
    this.#stripes -= entry.stripes;
    entry.stripes = 0;
    this.#onClose(entry);
  }
}
