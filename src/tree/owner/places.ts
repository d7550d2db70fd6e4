import type { Digest } from '../../image/digest.ts';
import { defined } from '../../util/assert.ts';
import type { PeerId } from '../../util/peer-id.ts';
import type { HostAddress, Place } from '../messages.ts';
import type { Member, PathCell } from './nodes.ts';

/** What the issuer needs of a tree. */
interface IssuedTree {
  readonly digest: Digest;
  readonly stripe: number;
}

/** The member that a peer is in the tree now. */
type MemberOf<T> = (tree: T, peer: PeerId) => Member | undefined;

/**
 * Hands out the places of members, so that the parents that hosts *use* never form a cycle, although each host learns of
 * its moves at a time of its own.
 *
 * For each member the issuer knows which paths its host may hold: the one acknowledged last, and the one sent since. A member
 * is *settled* when all hosts on those paths are ancestors of it in the tree now (or are not in it). A path handed out holds
 * only the ancestors above the topmost one that is not settled.
 *
 * Why no cycle: take the graph of all parents that any member may use. An edge is added only to hosts whose ancestors are all
 * settled, so every way from them climbs the tree to the owner and cannot lead back. A move in the tree adds no edge. Hosts
 * switch to other ancestors of a path that they hold, which are edges of the same kind. Delays, losses and repeats change
 * which of the known paths a host uses, not the set. (Hosts that are not in the tree serve what they hold and ask nobody;
 * alternates and the change of the owner are outside of this, and end with the hop budget of a read.)
 */
export class PlaceIssuer<T extends IssuedTree> {
  readonly #alternatesMax: number;
  readonly #memberOf: MemberOf<T>;
  #epoch: number;
  #walk = 0;

  /** Epochs start above `epochBase`: a restarted owner starts above what it gave out before. */
  constructor(init: { alternatesMax: number; epochBase: number; memberOf: MemberOf<T> }) {
    this.#alternatesMax = init.alternatesMax;
    this.#epoch = init.epochBase;
    this.#memberOf = init.memberOf;
  }

  /** The member's place as it is now, for a host that asked to join. */
  issue(tree: T, member: Member): Place {
    this.#choose(tree, member);
    return this.#place(tree, member);
  }

  /** Notes which place the host holds; the new one when it should hold another. */
  review(tree: T, member: Member, heldEpoch: number): Place | undefined {
    if (heldEpoch === member.issuedEpoch) {
      member.acked = member.issued;
      member.unsure = false;
    }
    this.#choose(tree, member);
    return heldEpoch === member.issuedEpoch ? undefined : this.#place(tree, member);
  }

  /** Sets the path that the host should hold. It keeps the one it has while that is right as far as the parent goes. */
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

  /** Path of the lowest ancestor that is settled and has none above it that is not. */
  #settledAbove(tree: T, member: Member): PathCell {
    const chain: Member[] = [];
    for (let at = member.parent; at !== undefined; at = at.parent) chain.push(at);
    const walk = ++this.#walk;
    let cell: PathCell | undefined;
    for (let i = chain.length - 1; i >= 0; i--) {
      const at = defined(chain[i], 'the chain has no holes');
      if (!this.#isSettled(tree, at, walk)) break;
      if (at.cell === undefined || at.cell.up !== cell || at.cell.address !== at.host.address) {
        at.cell = { member: at, address: at.host.address, up: cell };
      }
      cell = at.cell;
      at.mark = walk;
    }
    return defined(cell, 'the owner is always settled');
  }

  /** Whether every path that the host may hold names only hosts marked on this walk, or such as are not in the tree. */
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
        // The host may be in the tree again, elsewhere.
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
   * Hosts nearer to the owner than the member itself, so that hosts never have each other as alternates: the siblings of the
   * parent first, then those of the ancestors above; at each level those of the member's zone first.
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

/** Whether a path that the host may hold leads through the other one. */
export function mayUse(member: Member, peer: PeerId): boolean {
  for (const path of [member.issued, member.acked]) {
    for (let at = path; at !== undefined; at = at.up) if (at.address.peer === peer) return true;
  }
  return false;
}
