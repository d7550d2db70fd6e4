import type { Digest } from '../../image/digest.ts';
import { defined } from '../../util/assert.ts';
import type { PeerId } from '../../util/peer-id.ts';
import type { HostAddress, Place } from '../messages.ts';
import type { Member, PathCell } from './nodes.ts';

/** The part of a tree that the issuer needs. */
interface IssuedTree {
  readonly digest: Digest;
  readonly stripe: number;
}

/** The peer's current member in the tree. */
type MemberOf<T> = (tree: T, peer: PeerId) => Member | undefined;

/**
 * Hands out the places of members so that the parents that hosts *use* never form a cycle, although
 * each host learns of its moves at its own time.
 *
 * For each member the issuer knows which paths its host may hold: the path acknowledged last, and
 * those sent since. A member is *settled* when all hosts on those paths are now its ancestors in
 * the tree, or are not in the tree. A path handed out holds only the ancestors above the topmost
 * member that is not settled.
 *
 * Why no cycle forms: take the graph of all parents that any member may use. The issuer adds edges
 * only to hosts whose ancestors are all settled, so every way from them climbs the tree to the
 * owner and cannot lead back. A move in the tree adds no edge. Hosts switch to other ancestors of a
 * path that they hold, which are edges of the same kind. Delays, losses and repeats change which of
 * the known paths a host uses, not the set.
 *
 * Hosts that are not in the tree serve the blocks that they hold and ask nobody. This proof does
 * not cover alternates and a change of the owner: a cycle there ends with the hop budget of a read.
 */
export class PlaceIssuer<T extends IssuedTree> {
  readonly #alternatesMax: number;
  readonly #memberOf: MemberOf<T>;
  #epoch: number;
  #walk = 0;

  /** Epochs start above `epochBase`, so that a restarted owner starts above its earlier epochs. */
  constructor(init: { alternatesMax: number; epochBase: number; memberOf: MemberOf<T> }) {
    this.#alternatesMax = init.alternatesMax;
    this.#epoch = init.epochBase;
    this.#memberOf = init.memberOf;
  }

  /** The member's current place, for a host that asked to join. */
  issue(tree: T, member: Member): Place {
    this.#choose(tree, member);
    return this.#place(tree, member);
  }

  /**
   * Records which place the host holds; returns the new place when the host should hold another.
   */
  review(tree: T, member: Member, heldEpoch: number): Place | undefined {
    if (heldEpoch === member.issuedEpoch) {
      member.acked = member.issued;
      member.unsure = false;
    }
    this.#choose(tree, member);
    return heldEpoch === member.issuedEpoch ? undefined : this.#place(tree, member);
  }

  /**
   * Sets the path that the host should hold. The host keeps its path while the path still starts
   * with the right parent.
   */
  #choose(tree: T, member: Member): void {
    const above = this.#settledAbove(tree, member);
    if (above === member.issued) return;
    const parent = defined(member.parent, 'a member of a tree has a parent');
    const held = member.issued;
    const keeps =
      held !== undefined && above.member !== parent && held.member === parent && !member.unsure;
    if (keeps) return;
    if (member.issued !== member.acked && member.issued !== undefined) member.unsure = true;
    member.issued = above;
    member.issuedEpoch = ++this.#epoch;
  }

  /** Path of the lowest ancestor that is settled and has no unsettled ancestor above it. */
  #settledAbove(tree: T, member: Member): PathCell {
    const chain: Member[] = [];
    for (let at = member.parent; at !== undefined; at = at.parent) chain.push(at);
    const walk = ++this.#walk;
    let cell: PathCell | undefined;
    for (let i = chain.length - 1; i >= 0; i--) {
      const at = defined(chain[i], 'the chain of ancestors has no holes');
      if (!this.#isSettled(tree, at, walk)) break;
      if (at.cell === undefined || at.cell.up !== cell || at.cell.address !== at.host.address) {
        at.cell = { member: at, address: at.host.address, up: cell };
      }
      cell = at.cell;
      at.mark = walk;
    }
    return defined(cell, 'the owner is always settled');
  }

  /**
   * Whether every path that the host may hold names only hosts marked on this walk, or hosts that
   * are not in the tree.
   */
  #isSettled(tree: T, member: Member, walk: number): boolean {
    if (member.unsure || !this.#climbs(tree, member.issued, walk)) return false;
    return member.acked === member.issued || this.#climbs(tree, member.acked, walk);
  }

  #climbs(tree: T, path: PathCell | undefined, walk: number): boolean {
    for (let at = path; at !== undefined; at = at.up) {
      if (at.member.mark === walk) {
        if (at.member.cell === at) return true;
      } else if (!at.member.gone) {
        return false;
      } else {
        // The host may have joined the tree again, elsewhere.
        const again = this.#memberOf(tree, at.address.peer);
        if (again !== undefined && again.mark !== walk) return false;
      }
    }
    return true;
  }

  #place(tree: T, member: Member): Place {
    const path: HostAddress[] = [];
    for (let at = member.issued; at !== undefined; at = at.up) path.push(at.address);
    return {
      digest: tree.digest,
      stripe: tree.stripe,
      epoch: member.issuedEpoch,
      path,
      alternates: this.#alternates(member, path[0]?.peer),
    };
  }

  /**
   * Hosts nearer to the owner than the member itself, so that two hosts are never each other's
   * alternates. The siblings of the parent come first, then the siblings of the ancestors above; at
   * each level the hosts of the member's zone come first.
   */
  #alternates(member: Member, parent: PeerId | undefined): HostAddress[] {
    const found: HostAddress[] = [];
    let child = member.parent;
    for (let at = child?.parent; at !== undefined; child = at, at = at.parent) {
      const [own, other] = at.zone === member.zone ? [at.kin, at.guests] : [at.guests, at.kin];
      for (const near of [own, other]) {
        for (const host of near) {
          if (found.length === this.#alternatesMax) return found;
          if (host === child || host.host.suspected || host.host.address.peer === parent) continue;
          found.push(host.host.address);
        }
      }
    }
    return found;
  }
}

/** Whether a path that the host may hold leads through the peer. */
export function mayUse(member: Member, peer: PeerId): boolean {
  for (const path of [member.issued, member.acked]) {
    for (let at = path; at !== undefined; at = at.up) if (at.address.peer === peer) return true;
  }
  return false;
}
