import type { BlobOrigin, BlobRef } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { PeerId } from '../../util/peer-id.ts';
import { BLOBS_PER_JOIN_MAX, KIN_MAX, PATH_MAX } from '../limits.ts';
import type { BlockRun, HostAddress, Place } from '../messages.ts';
import type { RootLink } from './root-link.ts';

/** A blob that this host wants. */
export interface Wanted {
  readonly blob: BlobRef;
  readonly origin: BlobOrigin;
  /** Returns the blocks held now, as ascending runs; called when a JOIN is made. */
  readonly held: () => readonly BlockRun[];
  /** Stripes wanted; absent: all of them. */
  readonly stripes?: Iterable<number>;
}

/** A host to ask for a block of a stripe, and its relation to this host. */
export interface Source {
  readonly host: HostAddress;
  readonly role: 'parent' | 'alternate' | 'ancestor' | 'root';
}

/**
 * Sources that all stripes share: dozens of trees have the same few hosts. A host's go with the
 * last place that names it.
 */
export class SharedSources {
  readonly #byHost = new WeakMap<HostAddress, Partial<Record<Source['role'], Source>>>();

  of(host: HostAddress, role: Source['role']): Source {
    const known = this.#byHost.get(host);
    const byRole = known ?? {};
    if (known === undefined) this.#byHost.set(host, byRole);
    return (byRole[role] ??= { host, role });
  }
}

/** Why a seat did not take a place. */
type Refusal = 'cycle' | 'stale' | 'malformed';

/** This host's part in one stripe. */
export class Seat {
  readonly digest: Digest;
  readonly stripe: number;
  wanted: Wanted;
  /** Live roots, the rightful owner first. */
  order: readonly PeerId[] = [];
  /**
   * Root that this host is joined to or joins; undefined while none answers, and when this host
   * owns the stripe.
   */
  link: RootLink<Seat> | undefined;
  /** Root that this host was joined to before. */
  left: RootLink<Seat> | undefined;
  owned = false;
  /** Refusals in a row of a JOIN for it alone, and most blobs of the next JOIN that names it. */
  refusals = 0;
  blobsMax = BLOBS_PER_JOIN_MAX;
  place: Place | undefined;
  /** Hosts of its places, the latest first: they may hold blocks of the stripe. */
  kin: readonly HostAddress[] = [];
  /** Last answer of `sources()`; valid while the membership has these sources. */
  sources: { readonly shared: SharedSources; readonly list: readonly Source[] } | undefined;

  constructor(digest: Digest, stripe: number, wanted: Wanted) {
    this.digest = digest;
    this.stripe = stripe;
    this.wanted = wanted;
  }

  drop(): void {
    this.place = undefined;
    this.sources = undefined;
  }

  /**
   * Takes a place from `owner`, or returns why not: the path must lead to that owner and not
   * through this host, and of two places from one owner the one with the higher epoch wins.
   */
  take(place: Place, owner: PeerId, self: PeerId): Refusal | undefined {
    const { path, epoch } = place;
    if (path.length === 0 || path.length > PATH_MAX || path.at(-1)?.peer !== owner) {
      return 'malformed';
    }
    if (path.some(({ peer }) => peer === self)) return 'cycle';
    const held = this.place;
    if (held !== undefined && held.path.at(-1)?.peer === owner && epoch < held.epoch) {
      return 'stale';
    }
    this.place = place;
    const others = [...place.alternates, ...path].filter(({ peer }) => peer !== self);
    const before = this.kin.filter(({ peer }) => !others.some((other) => other.peer === peer));
    this.kin = [...others, ...before].slice(0, KIN_MAX);
    this.sources = undefined;
    this.refusals = 0;
    this.blobsMax = BLOBS_PER_JOIN_MAX;
    return undefined;
  }
}

/**
 * Hosts to ask, in this order: the nearest ancestor that is not lost, the alternates, the ancestors
 * above, the roots in the order of takeover. Leaves lost peers out, unless there are no others.
 */
export function rankSources(
  seat: Seat,
  {
    roots,
    self,
    isLost,
    sourceOf,
  }: {
    readonly roots: ReadonlyMap<PeerId, RootLink<Seat>>;
    readonly self: PeerId;
    readonly isLost: (peer: PeerId) => boolean;
    readonly sourceOf: (host: HostAddress, role: Source['role']) => Source;
  },
): readonly Source[] {
  const path = seat.place?.path ?? [];
  const parent = path.find(({ peer }) => !isLost(peer)) ?? path[0];
  const ranked: Source[] = [];
  const known = new Set<PeerId>([self]);
  const add = (host: HostAddress, role: Source['role']): void => {
    if (known.has(host.peer)) return;
    known.add(host.peer);
    ranked.push(sourceOf(host, role));
  };
  if (parent !== undefined) add(parent, 'parent');
  for (const host of seat.place?.alternates ?? []) add(host, 'alternate');
  for (const host of path) add(host, roots.has(host.peer) ? 'root' : 'ancestor');
  for (const peer of seat.order) {
    const link = roots.get(peer);
    if (link !== undefined) add(link.host, 'root');
  }
  const live = ranked.filter(({ host }) => !isLost(host.peer));
  return live.length > 0 ? live : ranked;
}
