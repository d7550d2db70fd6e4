import {
  blockIndex,
  stripeCount,
  type BlobOrigin,
  type BlobRef,
  type BlockIndex,
} from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import type { Random } from '../runtime/random.ts';
import { Membership, type MembershipEffect } from '../tree/membership.ts';
import type {
  BlockRun,
  HostAddress,
  HostCard,
  JoinReply,
  JoinRequest,
  LeaveRequest,
  Place,
  ReportReply,
  ReportRequest,
  TouchOrder,
} from '../tree/messages.ts';
import { Topology, type TopologyInit } from '../tree/topology.ts';
import type { PeerId } from '../util/peer-id.ts';
import { BlockCore } from './core.ts';
import type { CoreInit, PayloadOps, Routes } from './core-types.ts';
import type { Effect } from './effects.ts';

/** How often an owner looks for members that fell silent. */
const EXPIRY_TICK_MS = 60_000;

/** Depth to assume before a place is known: right below the owner. */
const NO_PLACE_DEPTH = 1;

/** A blob that a host wants to read, and where the registry has it. */
export interface OpenBlob {
  readonly blob: BlobRef;
  readonly origin: BlobOrigin;
}

/** A tree that a host takes part in; without a place at its owner, and until the owner has answered. */
export interface TreeSeat {
  readonly digest: Digest;
  readonly stripe: number;
  readonly place?: Place;
}

export interface HostCoreInit {
  readonly self: HostCard;
  readonly isRoot: boolean;
  /** All roots, this host among them if it is one. */
  readonly roots: readonly HostAddress[];
  readonly blocks?: Partial<CoreInit>;
  readonly topology?: Omit<TopologyInit, 'self'>;
  readonly reportIntervalMs?: number;
}

/** What a driver carries out: the effects of the block reducer that concern the world, and messages to owners. */
export type HostEffect<P, T> =
  | Exclude<Effect<P, T>, { type: 'touched' }>
  | { readonly type: 'tree'; readonly effect: MembershipEffect };

/**
 * All logic of an agent in one reducer: the way of a block, the membership in trees and, on a root, the topology of the trees that it
 * owns. Calls take the time; effects are taken with `take()`; the block reducer is called through `blocks`.
 */
export class HostCore<P, T> {
  readonly blocks: BlockCore<P, T>;
  readonly #membership: Membership;
  readonly #topology: Topology | undefined;
  readonly #blocksOf: (digest: Digest) => readonly BlockIndex[];
  readonly #wanted = new Map<Digest, BlobRef>();
  /** Trees that children joined here, by `digest/stripe`: this root answers for them whoever else thinks it does. */
  readonly #joined = new Set<string>();
  #effects: HostEffect<P, T>[] = [];
  #expiryMs: number | undefined;
  #nowMs = 0;

  constructor(
    components: {
      ops: PayloadOps<P>;
      random: Random;
      held: (digest: Digest, index: BlockIndex) => boolean;
      /** Blocks in the store, ascending. */
      blocksOf: (digest: Digest) => readonly BlockIndex[];
    },
    init: HostCoreInit,
  ) {
    this.#blocksOf = components.blocksOf;
    const { self, isRoot, reportIntervalMs } = init;
    this.#membership = new Membership({
      self,
      isRoot,
      random: components.random,
      ...(reportIntervalMs !== undefined && { reportIntervalMs }),
    });
    this.#topology = isRoot ? new Topology({ ...init.topology, self }) : undefined;
    this.blocks = new BlockCore(
      {
        ops: components.ops,
        random: components.random,
        held: components.held,
        routes: this.#routes(),
      },
      init.blocks,
    );
    this.rootsChanged(init.roots, 0);
  }

  /** The effects since the last call, in order. */
  take(): readonly HostEffect<P, T>[] {
    for (const effect of this.blocks.take()) {
      if (effect.type === 'touched') this.#topology?.touch(effect.digest, effect.index);
      else this.#effects.push(effect);
      if (effect.type === 'lost') {
        this.#tree(this.#membership.peerLost(effect.peer, this.#nowMs));
      }
    }
    const effects = this.#effects;
    if (effects.length > 0) this.#effects = [];
    return effects;
  }

  get nextWakeMs(): number | undefined {
    const times = [this.blocks.nextWakeMs, this.#membership.nextWakeMs, this.#expiryMs].filter(
      (time) => time !== undefined,
    );
    return times.length === 0 ? undefined : Math.min(...times);
  }

  /** Does what is due; also to be called once at the start. */
  tick(nowMs: number): void {
    this.#nowMs = nowMs;
    this.blocks.tick(nowMs);
    const due = this.#membership.nextWakeMs;
    if (due !== undefined && due <= nowMs) this.#tree(this.#membership.tick(nowMs));
    if (this.#topology !== undefined && nowMs >= (this.#expiryMs ?? 0)) {
      this.#topology.tick(nowMs);
      this.#expiryMs = nowMs + EXPIRY_TICK_MS;
    }
  }

  /** The roots that exist now: called when their names resolve to others. */
  rootsChanged(roots: readonly HostAddress[], nowMs: number): void {
    this.#nowMs = nowMs;
    this.#topology?.rootsChanged(roots.length);
    this.#tree(this.#membership.rootsChanged(roots, nowMs));
  }

  /** This host wants to read the blobs: joins their trees. */
  want(blobs: readonly OpenBlob[], nowMs: number): void {
    this.#nowMs = nowMs;
    for (const { blob } of blobs) {
      this.blocks.addBlob(blob);
      this.#wanted.set(blob.digest, blob);
    }
    const wanted = blobs.map(({ blob, origin }) => ({
      blob,
      origin,
      held: () => runsOf(this.#blocksOf(blob.digest)),
    }));
    this.#tree(this.#membership.want(wanted, nowMs));
  }

  unwant(digests: readonly Digest[], nowMs: number): void {
    this.#nowMs = nowMs;
    for (const digest of digests) {
      this.#wanted.delete(digest);
      this.#tree(this.#membership.unwant(digest, nowMs));
    }
  }

  /** Whether the blob has a place in the tree of each of its stripes, or is owned here. */
  isPlaced(blob: BlobRef): boolean {
    for (let stripe = 0; stripe < stripeCount(blob.sizeBytes); stripe++) {
      if (this.#owns(blob.digest, stripe)) continue;
      if (this.#membership.placeOf(blob.digest, stripe) === undefined) return false;
    }
    return true;
  }

  /** The trees that this host takes part in: as a child with a place, or as the owner. */
  trees(): readonly TreeSeat[] {
    const seats: TreeSeat[] = [];
    for (const { digest, sizeBytes } of this.#wanted.values()) {
      for (let stripe = 0; stripe < stripeCount(sizeBytes); stripe++) {
        const place = this.#membership.placeOf(digest, stripe);
        seats.push({ digest, stripe, ...(place !== undefined && { place }) });
      }
    }
    for (const { digest, stripe } of this.#topology?.trees() ?? []) {
      if (!this.#wanted.has(digest)) seats.push({ digest, stripe });
    }
    return seats;
  }

  /** The trees that this root keeps; undefined on a host that is no root. */
  get topology(): Topology | undefined {
    return this.#topology;
  }

  /** A host joins trees of this root. Throws TreeError. */
  join(peer: PeerId, request: JoinRequest, nowMs: number): JoinReply {
    this.#nowMs = nowMs;
    const reply = this.#owner().join(peer, request, nowMs);
    for (const { blob, stripes } of request.blobs) {
      this.blocks.addBlob(blob);
      for (const stripe of stripes) this.#joined.add(`${blob.digest}/${stripe}`);
    }
    return reply;
  }

  leave(peer: PeerId, request: LeaveRequest, nowMs: number): void {
    this.#nowMs = nowMs;
    this.#owner().leave(peer, request, nowMs);
  }

  report(peer: PeerId, request: ReportRequest, nowMs: number): ReportReply {
    this.#nowMs = nowMs;
    return this.#owner().report(peer, request, nowMs);
  }

  joinReply(ticket: number, reply: JoinReply, nowMs: number): void {
    this.#nowMs = nowMs;
    this.#tree(this.#membership.joinReply(ticket, reply, nowMs));
    for (const order of reply.orders) this.blocks.order(order, nowMs);
  }

  joinFailed(ticket: number, nowMs: number): void {
    this.#nowMs = nowMs;
    this.#tree(this.#membership.joinFailed(ticket, nowMs));
  }

  reportReply(ticket: number, reply: ReportReply, nowMs: number): void {
    this.#nowMs = nowMs;
    this.#tree(this.#membership.reportReply(ticket, reply, nowMs));
  }

  reportFailed(ticket: number, nowMs: number): void {
    this.#nowMs = nowMs;
    this.#tree(this.#membership.reportFailed(ticket, nowMs));
  }

  leaveDone(ticket: number, nowMs: number): void {
    this.#nowMs = nowMs;
    this.#tree(this.#membership.leaveDone(ticket, nowMs));
  }

  /** A peer told the order in which a blob is touched: believed only of those that this host reads from. */
  orderFrom(peer: PeerId, order: TouchOrder, nowMs: number): void {
    this.#nowMs = nowMs;
    const blob = this.blocks.blob(order.digest);
    if (blob === undefined) return;
    for (let stripe = 0; stripe < stripeCount(blob.sizeBytes); stripe++) {
      const sources = this.#membership.sources(order.digest, stripe);
      if (!sources.some(({ host }) => host.peer === peer)) continue;
      this.blocks.order(order, nowMs);
      return;
    }
  }

  /** The last connection to the peer closed. */
  peerGone(peer: PeerId, nowMs: number): void {
    this.#nowMs = nowMs;
    this.blocks.peerGone(peer, nowMs);
    this.#tree(this.#membership.peerLost(peer, nowMs));
  }

  #routes(): Routes {
    return {
      sources: (digest, stripe) => this.#membership.sources(digest, stripe),
      owns: (digest, stripe) => this.#owns(digest, stripe),
      holders: (digest, index) => this.#holders(digest, index),
      depth: (digest, stripe) => {
        if (this.#owns(digest, stripe)) return 0;
        return this.#membership.placeOf(digest, stripe)?.path.length ?? NO_PLACE_DEPTH;
      },
    };
  }

  #owns(digest: Digest, stripe: number): boolean {
    if (this.#topology === undefined) return false;
    if (this.#membership.isOwner(digest, stripe)) return true;
    // Hosts joined here because the roots before this one are down for them; unless this host itself reads from one of those.
    const isChild = this.#membership.sources(digest, stripe).length > 0;
    return !isChild && this.#joined.has(`${digest}/${stripe}`);
  }

  #holders(digest: Digest, index: BlockIndex): readonly HostAddress[] {
    const topology = this.#topology;
    if (topology === undefined) return [];
    return topology
      .holders(digest, index)
      .map((peer) => topology.addressOf(peer))
      .filter((host) => host !== undefined);
  }

  #owner(): Topology {
    if (this.#topology === undefined) throw new Error('a host that is no root keeps no trees');
    return this.#topology;
  }

  #tree(effects: readonly MembershipEffect[]): void {
    for (const effect of effects) this.#effects.push({ type: 'tree', effect });
  }
}

/** Ascending indices as runs of [first, count]. */
export function runsOf(indices: readonly BlockIndex[]): readonly BlockRun[] {
  const runs: [BlockIndex, number][] = [];
  for (const index of indices) {
    const last = runs.at(-1);
    if (last !== undefined && last[0] + last[1] === index) last[1]++;
    else runs.push([blockIndex(index), 1]);
  }
  return runs;
}
