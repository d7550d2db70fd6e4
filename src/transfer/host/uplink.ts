import type { BlockIndex } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { Random } from '../../runtime/random.ts';
import { Membership, type MembershipEffect } from '../../tree/member/membership.ts';
import type { HostAddress, HostCard, WantedBlob } from '../../tree/messages.ts';
import { runsOf } from './runs.ts';

/** Stripes of a blob whose trees the relay keeps. */
type KeptBlob = Pick<WantedBlob, 'blob' | 'origin' | 'stripes'>;

/**
 * A relay's way to the roots: its membership in their trees, for just the stripes whose trees it
 * keeps for its own group. So one host of a group per stripe is in the owner's tree, and asks the
 * owner for each block once.
 */
export class Uplink {
  readonly membership: Membership;
  readonly #blocksOf: (digest: Digest) => readonly BlockIndex[];
  readonly #kept = new Map<Digest, Set<number>>();

  constructor(
    components: { random: Random; blocksOf: (digest: Digest) => readonly BlockIndex[] },
    init: { self: HostCard; reportIntervalMs?: number; nextTicket: () => number },
  ) {
    this.#blocksOf = components.blocksOf;
    this.membership = new Membership({ ...init, random: components.random });
  }

  rootsChanged(roots: readonly HostAddress[], nowMs: number): readonly MembershipEffect[] {
    return this.membership.rootsChanged(roots, nowMs);
  }

  /** The trees of these stripes are kept here from now on. */
  keep(blobs: readonly KeptBlob[], nowMs: number): readonly MembershipEffect[] {
    const wanted = blobs.flatMap(({ blob, origin, stripes }) => {
      const kept = this.#kept.get(blob.digest) ?? new Set();
      const before = kept.size;
      for (const stripe of stripes) kept.add(stripe);
      if (kept.size === before) return [];
      this.#kept.set(blob.digest, kept);
      const held = () => runsOf(this.#blocksOf(blob.digest));
      return [{ blob, origin, held, stripes: kept }];
    });
    return wanted.length === 0 ? [] : this.membership.want(wanted, nowMs);
  }

  /** Leaves the trees of blobs that nobody of the group wants any more. */
  release(isWanted: (digest: Digest) => boolean, nowMs: number): readonly MembershipEffect[] {
    const unwanted = [...this.#kept.keys()].filter((digest) => !isWanted(digest));
    return unwanted.flatMap((digest) => {
      this.#kept.delete(digest);
      return this.membership.unwant(digest, nowMs);
    });
  }
}
