import type { Digest } from '../image/digest.ts';
import { halfToAll, type Random } from '../runtime/random.ts';
import { digestIn, tagIn, type Needs } from './belongings.ts';
import {
  AccelerationError,
  type AcceleratedImage,
  type AccelerationFailure,
  type AccelerationProgress,
  type BlockImage,
  type Conversion,
  type ReadyVersion,
} from './messages.ts';

/** Each image is some hundred bytes of state, and a question to its registry now and then. */
export const IMAGES_MAX = 4096;

/** Registries that are asked at a time about tags, or to remove something. (tunable) */
const ASKED_MAX = 8;

/** An attempt that failed is repeated after this time, doubled with each failure. (tunable) */
const RETRY_MS_MIN = 30_000;
const RETRY_MS_MAX = 3_600_000;

/** What an image is kept as over a restart. */
export type ImageRecord = Omit<AcceleratedImage, 'progress'>;

/** What the caller is to do; it tells how it went with the same `turn`. */
export type Effect =
  | {
      readonly kind: 'look';
      readonly image: string;
      readonly turn: number;
      readonly ready: ReadyVersion | undefined;
    }
  | { readonly kind: 'cancel'; readonly image: string; readonly turn: number }
  | {
      readonly kind: 'convert';
      readonly image: string;
      readonly turn: number;
      readonly sourceDigest: Digest;
    }
  | {
      readonly kind: 'remove';
      readonly image: string;
      readonly turn: number;
      readonly images: readonly BlockImage[];
    }
  /** The records have changed. */
  | { readonly kind: 'save' };

/** What a look found. */
export interface Look {
  /** What the tag stands for. */
  readonly sourceDigest: Digest;
  /** Whether the block images of the version that is ready are still there, if it is that one. */
  readonly isThere: boolean;
}

/** What looking, converting or removing came to. */
export type Outcome<T> =
  | { readonly outcome: 'done'; readonly value: T }
  | { readonly outcome: 'failed'; readonly failure: AccelerationFailure };

type Activity = 'idle' | 'looking' | 'waiting' | 'converting' | 'removing';

interface Entry {
  record: ImageRecord;
  activity: Activity;
  /** Counts what was begun: what an earlier turn came to no longer counts. */
  turn: number;
  progress?: AccelerationProgress | undefined;
}

interface Init {
  readonly concurrent: number;
  readonly watchMs: number;
}

/**
 * What becomes of the images that are accelerated. A look finds out what a tag stands for. A new
 * version, or one whose block images are gone, is converted, a few at a time in arrival order;
 * what fails is looked at again after a while, and what is ready too. `None` ends it: what was
 * made is removed from the lists of referrers, and the image forgotten.
 *
 * A reducer: each call brings the time (milliseconds since 1970) and gives what is to be done.
 */
export class AccelerationStates {
  readonly #random: Pick<Random, 'float'>;
  readonly #init: Init;
  /** In the order of the requests. */
  readonly #entries = new Map<string, Entry>();
  /** Images that wait for a conversion, the first one first. */
  readonly #line = new Set<string>();
  #turns = 0;

  constructor(components: { readonly random: Pick<Random, 'float'> }, init: Init) {
    this.#random = components.random;
    this.#init = init;
  }

  /** Takes over what an earlier run kept. What it was in the middle of begins anew. */
  load(records: readonly ImageRecord[], nowMs: number): readonly Effect[] {
    for (const record of records.slice(0, IMAGES_MAX)) {
      const isBroken = record.state === 'Preparing' || record.nextMs === undefined;
      // A clock that was set back must not make anything wait for years.
      const latestMs = nowMs + Math.max(this.#init.watchMs, RETRY_MS_MAX);
      const nextMs = isBroken ? nowMs : Math.min(record.nextMs ?? nowMs, latestMs);
      const entry: Entry = { record: { ...record, nextMs }, activity: 'idle', turn: 0 };
      this.#entries.set(record.image, entry);
    }
    return this.advance(nowMs);
  }

  records(): readonly ImageRecord[] {
    return [...this.#entries.values()].map(({ record }) => record);
  }

  list(): readonly AcceleratedImage[] {
    return [...this.#entries.values()].map(viewOf);
  }

  get(image: string): AcceleratedImage | undefined {
    const entry = this.#entries.get(image);
    return entry && viewOf(entry);
  }

  /** Whether it is a block image of an image that is accelerated no more. */
  isRemoved(digest: Digest): boolean {
    for (const { record } of this.#entries.values()) {
      if (record.accelerationType !== 'None') continue;
      if (this.#removable(record).some((image) => image.digest === digest)) return true;
    }
    return false;
  }

  /** What the versions that are ready need of what was made. */
  needs(): Needs {
    const names = new Set<string>();
    const busy = new Set<string>();
    for (const { record, activity } of this.#entries.values()) {
      const repository = repositoryOf(record.image);
      if (activity === 'converting') busy.add(repository);
      if (record.accelerationType === 'None') continue;
      const { images = [], layerTags = [] } = record.ready ?? {};
      for (const { digest } of images) names.add(digestIn(repository, digest));
      for (const tag of layerTags) names.add(tagIn(repository, tag));
    }
    return { names, busy };
  }

  /** Conversions that run. */
  get running(): number {
    return this.#count('converting');
  }

  /** When the caller has to come back, whatever it hears before. */
  nextMs(): number | undefined {
    const due = [...this.#entries.values()].flatMap(({ activity, record }) =>
      activity === 'idle' && record.nextMs !== undefined ? [record.nextMs] : [],
    );
    return due.length === 0 ? undefined : Math.min(...due);
  }

  /** Starts with an image, or repeats at once what failed. Throws AccelerationError (`full`). */
  accelerate(image: string, nowMs: number): readonly Effect[] {
    const known = this.#entries.get(image);
    if (known === undefined) {
      if (this.#entries.size >= IMAGES_MAX) {
        const what = `${IMAGES_MAX} images are accelerated already, the maximum`;
        throw new AccelerationError(what, { code: 'full' });
      }
      const record: ImageRecord = {
        ...{ image, accelerationType: 'Default', state: 'Preparing', failures: 0 },
        ...{ requestedMs: nowMs, nextMs: nowMs },
      };
      this.#entries.set(image, { record, activity: 'idle', turn: 0 });
      return [{ kind: 'save' }, ...this.advance(nowMs)];
    }
    const { record, activity } = known;
    if (record.accelerationType === 'None') {
      // What was to be removed may be gone: it is made again, of layers that are there.
      const { ready: _, failure: __, ...rest } = record;
      known.record = { ...rest, accelerationType: 'Default', state: 'Preparing' };
    } else if (activity !== 'idle') return [];
    const effects = this.#leave(known);
    known.record = {
      ...known.record,
      ...{ failures: 0, nextMs: nowMs, requestedMs: nowMs },
      state: known.record.state === 'Ready' ? 'Ready' : 'Preparing',
    };
    return [...effects, { kind: 'save' }, ...this.advance(nowMs)];
  }

  /** Ends the acceleration of an image, or repeats that at once; nothing when there is none. */
  stop(image: string, nowMs: number): readonly Effect[] {
    const entry = this.#entries.get(image);
    if (entry === undefined) return [];
    const isEnding = entry.record.accelerationType === 'None';
    if (isEnding && entry.activity !== 'idle') return [];
    const effects = this.#leave(entry);
    const { failure: _, ...rest } = entry.record;
    entry.record = { ...rest, accelerationType: 'None', failures: 0, nextMs: nowMs };
    return [...effects, { kind: 'save' }, ...this.advance(nowMs)];
  }

  looked(image: string, turn: number, found: Outcome<Look>, nowMs: number): readonly Effect[] {
    const entry = this.#begun(image, turn, 'looking');
    if (entry === undefined) return [];
    entry.activity = 'idle';
    const { record } = entry;
    if (found.outcome === 'failed') {
      // What is ready stays so while nobody can tell whether the tag has moved.
      const passes = found.failure.kind === 'registry' && record.state === 'Ready';
      this.#fail(entry, found.failure, nowMs, passes ? 'Ready' : 'Failed');
      return [{ kind: 'save' }, ...this.advance(nowMs)];
    }
    const { sourceDigest, isThere } = found.value;
    const { failure: _, ...before } = record;
    const rest = { ...before, lookedMs: nowMs };
    if (record.ready?.sourceDigest === sourceDigest && isThere) {
      const nextMs = nowMs + this.#init.watchMs;
      entry.record = { ...rest, state: 'Ready', sourceDigest, failures: 0, nextMs };
      const isNew = record.state !== 'Ready' || record.failure !== undefined;
      return [...(isNew ? [{ kind: 'save' } as const] : []), ...this.advance(nowMs)];
    }
    // How often it failed counts for this version alone.
    const failures = record.sourceDigest === sourceDigest ? record.failures : 0;
    const { nextMs: __, ...prepared } = { ...rest, state: 'Preparing' as const, failures };
    entry.record = { ...prepared, sourceDigest };
    entry.activity = 'waiting';
    this.#line.add(image);
    return [{ kind: 'save' }, ...this.advance(nowMs)];
  }

  progressed(image: string, turn: number, progress: AccelerationProgress): void {
    const entry = this.#begun(image, turn, 'converting');
    if (entry !== undefined) entry.progress = progress;
  }

  converted(
    image: string,
    turn: number,
    made: Outcome<Conversion>,
    nowMs: number,
  ): readonly Effect[] {
    const entry = this.#begun(image, turn, 'converting');
    if (entry === undefined) return this.advance(nowMs);
    entry.activity = 'idle';
    entry.progress = undefined;
    const { record } = entry;
    if (made.outcome === 'failed') {
      this.#fail(entry, made.failure, nowMs, 'Failed');
      entry.record = { ...entry.record, finishedMs: nowMs };
      return [{ kind: 'save' }, ...this.advance(nowMs)];
    }
    const { sourceDigest, startedMs = nowMs } = record;
    const ready: ReadyVersion | undefined = sourceDigest && {
      ...{ sourceDigest, ...made.value, readyMs: nowMs },
      seconds: Math.max(0, nowMs - startedMs) / 1000,
    };
    const nextMs = nowMs + this.#init.watchMs;
    entry.record = { ...record, state: 'Ready', ready, failures: 0, finishedMs: nowMs, nextMs };
    return [{ kind: 'save' }, ...this.advance(nowMs)];
  }

  removed(image: string, turn: number, end: Outcome<void>, nowMs: number): readonly Effect[] {
    const entry = this.#begun(image, turn, 'removing');
    if (entry === undefined) return [];
    entry.activity = 'idle';
    if (end.outcome === 'failed') this.#fail(entry, end.failure, nowMs, entry.record.state);
    else this.#entries.delete(image);
    return [{ kind: 'save' }, ...this.advance(nowMs)];
  }

  /** Begins what is due and has room. */
  advance(nowMs: number): readonly Effect[] {
    const effects: Effect[] = [];
    let asked = this.#count('looking') + this.#count('removing');
    for (const [image, entry] of this.#entries) {
      const { record, activity } = entry;
      if (activity !== 'idle' || (record.nextMs ?? Infinity) > nowMs) continue;
      if (record.accelerationType === 'None') {
        const images = this.#removable(record);
        if (images.length === 0) {
          this.#entries.delete(image);
          effects.push({ kind: 'save' });
          continue;
        }
        if (asked++ >= ASKED_MAX) continue;
        effects.push({ kind: 'remove', image, images, turn: this.#begin(entry, 'removing') });
      } else if (asked++ < ASKED_MAX) {
        const { ready } = record;
        effects.push({ kind: 'look', image, ready, turn: this.#begin(entry, 'looking') });
      }
    }
    for (const image of this.#line) {
      if (this.running >= this.#init.concurrent) break;
      this.#line.delete(image);
      const entry = this.#entries.get(image);
      const sourceDigest = entry?.record.sourceDigest;
      if (entry === undefined || sourceDigest === undefined) continue;
      const turn = this.#begin(entry, 'converting');
      const { finishedMs: _, ...record } = entry.record;
      entry.record = { ...record, startedMs: nowMs };
      effects.push({ kind: 'convert', image, turn, sourceDigest });
    }
    return effects;
  }

  /** Those of the image that no other image which is accelerated stands for as well. */
  #removable({ image, ready }: ImageRecord): readonly BlockImage[] {
    const kept = new Set<Digest>();
    for (const { record } of this.#entries.values()) {
      if (record.image === image || record.accelerationType === 'None') continue;
      if (repositoryOf(record.image) !== repositoryOf(image)) continue;
      for (const { digest } of record.ready?.images ?? []) kept.add(digest);
    }
    return (ready?.images ?? []).filter(({ digest }) => !kept.has(digest));
  }

  #begin(entry: Entry, activity: Activity): number {
    entry.activity = activity;
    entry.turn = ++this.#turns;
    return entry.turn;
  }

  /** Leaves what the entry is at; what that comes to no longer counts. */
  #leave(entry: Entry): readonly Effect[] {
    const { activity, turn, record } = entry;
    const { image } = record;
    this.#line.delete(image);
    entry.activity = 'idle';
    entry.turn = ++this.#turns;
    entry.progress = undefined;
    const isUnderWay = activity !== 'idle' && activity !== 'waiting';
    return isUnderWay ? [{ kind: 'cancel', image, turn }] : [];
  }

  #fail(
    entry: Entry,
    failure: AccelerationFailure,
    nowMs: number,
    state: ImageRecord['state'],
  ): void {
    const failures = entry.record.failures + 1;
    const wholeMs = Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** Math.min(failures - 1, 20));
    const nextMs = nowMs + halfToAll(this.#random, wholeMs);
    entry.record = { ...entry.record, state, failure, failures, nextMs };
  }

  #begun(image: string, turn: number, activity: Activity): Entry | undefined {
    const entry = this.#entries.get(image);
    return entry?.turn === turn && entry.activity === activity ? entry : undefined;
  }

  #count(activity: Activity): number {
    let count = 0;
    for (const entry of this.#entries.values()) if (entry.activity === activity) count++;
    return count;
  }
}

function viewOf({ record, progress }: Entry): AcceleratedImage {
  return { ...record, ...(progress && { progress }) };
}

/** `host[:port]/name` of `host[:port]/name:tag`. */
export function repositoryOf(image: string): string {
  return image.slice(0, image.lastIndexOf(':'));
}
