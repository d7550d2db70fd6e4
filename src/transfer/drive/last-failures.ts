import type { Digest } from '../../image/digest.ts';
import { BoundedMap } from '../../util/bounded-map.ts';

/** Blobs whose failures are remembered. */
const BLOBS_MAX = 256;

/** Sources of one blob: the registry, and the last peers. */
const SOURCES_MAX = 4;

/** How long a failure tells why a read got no answer, in milliseconds: as long as reads wait. */
const LIFE_MS = 60_000;

interface Failure {
  readonly text: string;
  readonly atMs: number;
}

/** What the sources of each blob failed with last, for the error of a read that nobody answered. */
export class LastFailures {
  readonly #clock: { nowMs(): number };
  readonly #blobs = new BoundedMap<Digest, BoundedMap<string, Failure>>({
    entriesMax: BLOBS_MAX,
    evict: 'use',
  });

  constructor(components: { clock: { nowMs(): number } }) {
    this.#clock = components.clock;
  }

  /** `source`: for people. */
  note(digest: Digest, source: string, text: string): void {
    const known = this.#blobs.get(digest);
    const failures = known ?? new BoundedMap<string, Failure>({ entriesMax: SOURCES_MAX });
    if (known === undefined) this.#blobs.set(digest, failures);
    failures.set(source, { text, atMs: this.#clock.nowMs() });
  }

  /** `; SOURCE: TEXT` of each source that has failed not long ago. */
  of(digest: Digest): string {
    const sinceMs = this.#clock.nowMs() - LIFE_MS;
    return [...(this.#blobs.peek(digest) ?? [])]
      .filter(([, { atMs }]) => atMs >= sinceMs)
      .map(([source, { text }]) => `; ${source}: ${text}`)
      .join('');
  }
}
