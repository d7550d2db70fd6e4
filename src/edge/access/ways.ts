import type { Digest } from '../../image/digest.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import type { PeerId } from '../../util/peer-id.ts';
import type { AccessError } from './access-error.ts';

/** Blobs whose ways are kept, with URLs of 8 KiB at most; the least recently used go. */
const BLOBS_MAX = 1024;

/**
 * Ways of one blob: when a signature ends in the middle of a blob the next one goes on. One place
 * is left to lent URLs that nobody has tried.
 */
const WAYS_PER_BLOB_MAX = 4;

/**
 * A host whose lent URL was refused before it gave anything comes behind the others for this long.
 * (tunable)
 */
const DOUBT_MS = 60_000;
const DOUBTS_MAX = 4096;

/**
 * A signed URL or a token lasts minutes; one that nobody has shown for this long, and by which no
 * request runs, is not tried. (tunable)
 */
const WAY_MS = 600_000;

/**
 * A prefix at which a lent URL failed is not lent again for this long: it may be bound to the
 * address of its host. (tunable)
 */
const UNLENDABLE_MS = 300_000;
const UNLENDABLE_MAX = 1024;

/**
 * One means of reading a blob from outside the cluster: a client's signed URL or token, on the
 * client's own host, or a signed URL that a host lent to the owner of the blob. Secret: in memory
 * only, and never in a log.
 */
export class Way {
  readonly url: string;
  readonly authorization: string | undefined;
  /** The peer that lent it; undefined for a way of a client of this host. */
  readonly lender: PeerId | undefined;
  readonly untilMs: number;
  readonly #watchers = new Set<(error: AccessError) => void>();
  #hasGiven = false;

  constructor(init: {
    readonly url: string;
    readonly authorization?: string | undefined;
    readonly lender?: PeerId | undefined;
    readonly nowMs: number;
  }) {
    this.url = init.url;
    this.authorization = init.authorization;
    this.lender = init.lender;
    this.untilMs = init.nowMs + WAY_MS;
  }

  /** Calls back when the way turns out to be closed (401, 403); returns what ends that. */
  watch(onClosed: (error: AccessError) => void): () => void {
    this.#watchers.add(onClosed);
    return () => void this.#watchers.delete(onClosed);
  }

  /** A host lent it, and it has given nothing yet: it may lead nowhere. */
  get isUntried(): boolean {
    return this.lender !== undefined && !this.#hasGiven;
  }

  gave(): void {
    this.#hasGiven = true;
  }

  /** A request that came by it still runs. */
  get isInUse(): boolean {
    return this.#watchers.size > 0;
  }

  /** The origin refuses the way now. */
  close(error: AccessError): void {
    for (const onClosed of [...this.#watchers]) onClosed(error);
  }
}

/**
 * The ways to each blob. A host in bad hands can lend URLs that lead nowhere, under any number of
 * names: so a lent URL that gave bytes comes before those that nobody has tried, and loses its
 * place to none of them.
 */
export class Ways {
  readonly #clock: { nowMs(): number };
  readonly #ways = new BoundedMap<Digest, readonly Way[]>({ entriesMax: BLOBS_MAX, evict: 'use' });
  readonly #unlendable = new BoundedMap<string, number>({ entriesMax: UNLENDABLE_MAX });
  /** Until when a lender of a blob comes behind others, by both. */
  readonly #doubts = new BoundedMap<string, number>({ entriesMax: DOUBTS_MAX });

  constructor(components: { readonly clock: { nowMs(): number } }) {
    this.#clock = components.clock;
  }

  /**
   * Takes in a way to the blob with this key, and gives it, or the same one that is known already.
   */
  add(key: Digest, way: Pick<Way, 'url' | 'authorization'> & { readonly lender?: PeerId }): Way {
    const { url, authorization, lender } = way;
    const nowMs = this.#clock.nowMs();
    const known = this.of(key);
    const same = known.find((each) => each.url === url && each.authorization === authorization);
    const added = same ?? new Way({ url, authorization, lender, nowMs });
    const others = known.filter((each) => each !== same);
    this.#set(key, [added, ...others.filter((each) => !each.isUntried || each.lender !== lender)]);
    return added;
  }

  /** The way led to the blob. */
  gave(key: Digest, way: Way): void {
    if (!way.isUntried) return;
    way.gave();
    this.#doubts.delete(doubtOf(key, way));
    // A lender has one place, so that no host crowds the others out.
    const others = this.of(key).filter((each) => each.lender !== way.lender);
    this.#set(key, [way, ...others]);
  }

  /** Ways that may still be open: those that gave bytes first, then the newest. */
  of(key: Digest): readonly Way[] {
    const nowMs = this.#clock.nowMs();
    return (this.#ways.get(key) ?? []).filter((way) => nowMs < way.untilMs || way.isInUse);
  }

  /** The way leads to the blob no more, or never did. */
  remove(key: Digest, way: Way): void {
    if (way.isUntried) this.#doubts.set(doubtOf(key, way), this.#clock.nowMs() + DOUBT_MS);
    const left = this.of(key).filter((each) => each !== way);
    if (left.length > 0) this.#ways.set(key, left);
    else this.#ways.delete(key);
  }

  /** `ways`: the newest first. */
  #set(key: Digest, ways: readonly Way[]): void {
    const nowMs = this.#clock.nowMs();
    const isDoubted = (way: Way): boolean => nowMs < (this.#doubts.get(doubtOf(key, way)) ?? 0);
    const good = ways.filter((way) => !way.isUntried);
    const untried = ways.filter((way) => way.isUntried);
    const inOrder = [
      ...untried.filter((way) => !isDoubted(way)),
      ...untried.filter((way) => isDoubted(way)),
    ];
    const isFull = good.length >= WAYS_PER_BLOB_MAX && inOrder.length > 0;
    const kept = isFull ? good.slice(0, WAYS_PER_BLOB_MAX - 1) : good;
    this.#ways.set(key, [...kept, ...inOrder].slice(0, WAYS_PER_BLOB_MAX));
  }

  /** URLs below the prefix do not work from other hosts. */
  markUnlendable(prefix: string): void {
    this.#unlendable.set(prefix, this.#clock.nowMs() + UNLENDABLE_MS);
  }

  isLendable(prefix: string): boolean {
    return this.#clock.nowMs() >= (this.#unlendable.get(prefix) ?? 0);
  }
}

function doubtOf(key: Digest, { lender }: Way): string {
  return `${key} ${lender ?? ''}`;
}

/** The ways, the given one before all others. */
export function withFirst(first: Way | undefined, ways: readonly Way[]): readonly Way[] {
  return first === undefined ? ways : [first, ...ways.filter((way) => way !== first)];
}
