import type { Digest } from '../../image/digest.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import type { PeerId } from '../../util/peer-id.ts';
import type { AccessError } from './access-error.ts';

/** Blobs whose ways are kept, with URLs of 8 KiB at most; the least recently used go. */
const BLOBS_MAX = 1024;

/**
 * Ways of one blob, one of each peer: when a signature ends in the middle of a blob the next one
 * goes on.
 */
const WAYS_PER_BLOB_MAX = 4;

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

  /** A request that came by it still runs. */
  get isInUse(): boolean {
    return this.#watchers.size > 0;
  }

  /** The origin refuses the way now. */
  close(error: AccessError): void {
    for (const onClosed of [...this.#watchers]) onClosed(error);
  }
}

/** The ways to each blob, the newest first. */
export class Ways {
  readonly #clock: { nowMs(): number };
  readonly #ways = new BoundedMap<Digest, readonly Way[]>({ entriesMax: BLOBS_MAX, evict: 'use' });
  readonly #unlendable = new BoundedMap<string, number>({ entriesMax: UNLENDABLE_MAX });

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
    // A lender has one place, so that no host crowds the others out.
    const others = known.filter(
      (each) => each !== same && (lender === undefined || each.lender !== lender),
    );
    this.#ways.set(key, [added, ...others].slice(0, WAYS_PER_BLOB_MAX));
    return added;
  }

  /** Ways that may still be open, the newest first. */
  of(key: Digest): readonly Way[] {
    const nowMs = this.#clock.nowMs();
    return (this.#ways.get(key) ?? []).filter((way) => nowMs < way.untilMs || way.isInUse);
  }

  remove(key: Digest, way: Way): void {
    const left = this.of(key).filter((each) => each !== way);
    if (left.length > 0) this.#ways.set(key, left);
    else this.#ways.delete(key);
  }

  /** URLs below the prefix do not work from other hosts. */
  markUnlendable(prefix: string): void {
    this.#unlendable.set(prefix, this.#clock.nowMs() + UNLENDABLE_MS);
  }

  isLendable(prefix: string): boolean {
    return this.#clock.nowMs() >= (this.#unlendable.get(prefix) ?? 0);
  }
}
