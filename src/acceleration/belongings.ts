import type { Digest } from '../image/digest.ts';
import type { Belonging, Kept, KeptThing, MadeManifest } from './messages.ts';

/** Manifests that are kept account of; more than these are left where they are. (tunable) */
const BELONGINGS_MAX = 65_536;

/** How often is looked which belongings are needed: a tenth of the time that they are kept. */
const SWEEP_MS_MIN = 1_000;
const SWEEP_MS_MAX = 600_000;

/** What somebody still refers to is looked at again after this time. (tunable) */
const AGAIN_MS = 24 * 3_600_000;

/** A registry that could not be asked is asked again after this time. (tunable) */
const RETRY_MS = 3_600_000;

/** What became of belongings that were to be removed. */
export interface Collected {
  /** No longer there, or no longer of this root. */
  readonly gone: readonly Digest[];
  /** Somebody refers to them: who. */
  readonly kept: ReadonlyMap<Digest, string>;
  /** The registry lets nothing be removed: its words. */
  readonly refused?: string | undefined;
}

/** What images need of what was made. */
export interface Needs {
  /** Names by `digestIn()` and `tagIn()`. */
  readonly names: ReadonlySet<string>;
  /** Repositories in which something is being made: nobody knows yet what that needs. */
  readonly busy: ReadonlySet<string>;
}

interface Init {
  /** How long what nothing needs is kept; 0: always. */
  readonly keepMs: number;
}

interface Entry {
  belonging: Belonging;
  /** Not removed before. */
  notBeforeMs: number;
  reason?: string | undefined;
}

/**
 * What this root has put into registries, and when it may go: once no image that is accelerated has
 * needed it for a while. Whether somebody else refers to it is for who removes it to find out.
 *
 * A reducer, as AccelerationStates: each call brings the time (milliseconds since 1970).
 */
export class Belongings {
  readonly #init: Init;
  readonly #entries = new Map<string, Entry>();
  /** Registries that let nothing be removed, and what they said. */
  readonly #refusals = new Map<string, string>();
  #isAsking = false;
  #sweepMs: number;
  /** Nothing is removed before. */
  #startMs: number;

  constructor(init: Init, nowMs: number) {
    this.#init = init;
    this.#sweepMs = nowMs;
    // Hosts come back first: what they read is not to go because their root was restarted.
    this.#startMs = nowMs + this.#intervalMs;
  }

  load(records: readonly Belonging[]): void {
    for (const belonging of records.slice(0, BELONGINGS_MAX)) {
      this.#entries.set(nameOf(belonging), { belonging, notBeforeMs: 0 });
    }
  }

  records(): readonly Belonging[] {
    return [...this.#entries.values()].map(({ belonging }) => belonging);
  }

  list(repository: string | undefined): Kept {
    const entries = [...this.#entries.values()].filter(
      ({ belonging }) => repository === undefined || belonging.repository === repository,
    );
    const sizes = new Map<string, number>();
    for (const { belonging } of entries) {
      for (const { digest, sizeBytes } of belonging.blobs) {
        sizes.set(`${belonging.repository}@${digest}`, sizeBytes);
      }
    }
    return { things: entries.map((entry) => this.#viewOf(entry)), sizeBytes: sumOf(sizes) };
  }

  /** Takes what was made there. Whether it is new. */
  add(repository: string, made: MadeManifest): boolean {
    const belonging: Belonging = { ...made, repository };
    const name = nameOf(belonging);
    if (this.#entries.has(name) || this.#entries.size >= BELONGINGS_MAX) return false;
    if (made.tag !== undefined) this.#untag(repository, made.tag);
    this.#entries.set(name, { belonging, notBeforeMs: 0 });
    return true;
  }

  /** The tag stands for something else now. */
  #untag(repository: string, tag: string): void {
    for (const entry of this.#entries.values()) {
      const { tag: held, ...untagged } = entry.belonging;
      if (held === tag && untagged.repository === repository) entry.belonging = untagged;
    }
  }

  /** What is needed has changed: the next sweep finds it out. */
  changed(): void {
    this.#sweepMs = 0;
  }

  /** Finds out what is needed, when it is time for that; whether anything changed. */
  sweep(needs: () => Needs, nowMs: number): boolean {
    // A clock that was set back must not keep it waiting for years.
    this.#sweepMs = Math.min(this.#sweepMs, nowMs + this.#intervalMs);
    this.#startMs = Math.min(this.#startMs, nowMs + this.#intervalMs);
    if (nowMs < this.#sweepMs) return false;
    this.#sweepMs = nowMs + this.#intervalMs;
    const needed = needs();
    let isChanged = false;
    for (const entry of this.#entries.values()) {
      const { idleMs, ...belonging } = entry.belonging;
      const sinceMs = sinceOf(entry.belonging, needed, nowMs);
      if (sinceMs === idleMs) continue;
      entry.belonging = { ...belonging, ...(sinceMs !== undefined && { idleMs: sinceMs }) };
      if (sinceMs === undefined) entry.reason = undefined;
      isChanged = true;
    }
    return isChanged;
  }

  /** What is to be removed next, all of it of one repository. It ends with `ended()`. */
  begin(needs: () => Needs, nowMs: number): readonly Belonging[] | undefined {
    if (this.#isAsking || nowMs < this.#startMs) return undefined;
    const late = [...this.#entries.values()].filter(
      (entry) => (this.#dueMs(entry) ?? Infinity) <= nowMs,
    );
    if (late.length === 0) return undefined;
    const { names, busy } = needs();
    const due = late.flatMap(({ belonging }) => {
      const isNeeded = busy.has(belonging.repository) || names.has(neededAs(belonging));
      return isNeeded ? [] : [belonging];
    });
    const repository = due[0]?.repository;
    if (repository === undefined) return undefined;
    this.#isAsking = true;
    return due.filter((belonging) => belonging.repository === repository);
  }

  /** What came of it; undefined: the registry could not be asked. */
  ended(belongings: readonly Belonging[], found: Collected | undefined, nowMs: number): void {
    this.#isAsking = false;
    for (const belonging of belongings) {
      const name = nameOf(belonging);
      const entry = this.#entries.get(name);
      if (entry === undefined) continue;
      if (found?.gone.includes(belonging.digest) === true) this.#entries.delete(name);
      entry.reason = found?.kept.get(belonging.digest);
      const waitMs = entry.reason === undefined ? RETRY_MS : AGAIN_MS;
      entry.notBeforeMs = nowMs + Math.min(waitMs, this.#init.keepMs);
      if (found?.refused !== undefined) this.#refusals.set(registryOf(belonging), found.refused);
    }
  }

  /** When the caller has to come back. */
  nextMs(): number | undefined {
    return this.#entries.size === 0 ? undefined : this.#sweepMs;
  }

  get #intervalMs(): number {
    const { keepMs } = this.#init;
    if (keepMs === 0) return SWEEP_MS_MAX;
    return Math.min(SWEEP_MS_MAX, Math.max(SWEEP_MS_MIN, keepMs / 10));
  }

  #dueMs({ belonging, notBeforeMs }: Entry): number | undefined {
    const { idleMs } = belonging;
    const { keepMs } = this.#init;
    if (idleMs === undefined || keepMs === 0) return undefined;
    if (this.#refusals.has(registryOf(belonging))) return undefined;
    return Math.max(idleMs + keepMs, notBeforeMs);
  }

  #viewOf(entry: Entry): KeptThing {
    const { blobs, ...belonging } = entry.belonging;
    const removeMs = this.#dueMs(entry);
    const isIdle = belonging.idleMs !== undefined;
    const reason = entry.reason ?? (isIdle ? this.#refusals.get(registryOf(belonging)) : undefined);
    return {
      ...belonging,
      sizeBytes: blobs.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
      ...(removeMs !== undefined && { removeMs }),
      ...(reason !== undefined && { reason }),
    };
  }
}

/** The name of a manifest that is needed by its digest. */
export function digestIn(repository: string, digest: Digest): string {
  return `${repository}@${digest}`;
}

/** The name of a kept layer that is needed. */
export function tagIn(repository: string, tag: string): string {
  return `${repository}:${tag}`;
}

function neededAs({ repository, digest, tag }: Omit<Belonging, 'blobs'>): string {
  return tag === undefined ? digestIn(repository, digest) : tagIn(repository, tag);
}

/** Since when nothing needs it. */
function sinceOf(belonging: Belonging, { names, busy }: Needs, nowMs: number): number | undefined {
  const { idleMs, repository } = belonging;
  if (names.has(neededAs(belonging))) return undefined;
  if (idleMs === undefined && busy.has(repository)) return undefined;
  return Math.min(idleMs ?? nowMs, nowMs);
}

function nameOf({ repository, digest }: Belonging): string {
  return digestIn(repository, digest);
}

function registryOf({ repository }: Pick<Belonging, 'repository'>): string {
  return repository.slice(0, repository.indexOf('/'));
}

function sumOf(sizes: ReadonlyMap<string, number>): number {
  let sum = 0;
  for (const sizeBytes of sizes.values()) sum += sizeBytes;
  return sum;
}
