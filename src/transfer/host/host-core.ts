import { stripeCount, type BlobRef, type BlockIndex } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { LocatedBlob } from '../contracts/blob-reader.ts';
import { TransferError } from '../contracts/errors.ts';
import type { Random } from '../../runtime/random.ts';
import { INNER_CHILDREN } from '../../tree/limits.ts';
import { Membership, type MembershipEffect } from '../../tree/member/membership.ts';
import type { CallFailure } from '../../tree/member/root-link.ts';
import type {
  AgentRole,
  HostAddress,
  HostCard,
  JoinReply,
  JoinRequest,
  LeaveRequest,
  Place,
  ReportReply,
  ReportRequest,
  TouchOrder,
  WantedBlob,
} from '../../tree/messages.ts';
import { RootRing } from '../../tree/rendezvous.ts';
import { depthBound } from '../../tree/owner/depth.ts';
import { Topology, type TopologyInit } from '../../tree/owner/topology.ts';
import { counter } from '../../util/counter.ts';
import type { PeerId } from '../../util/peer-id.ts';
import { BlockCore } from '../core/core.ts';
import {
  HOPS_SLACK,
  type CoreInit,
  type PayloadOps,
  type PeerSource,
  type Routes,
} from '../core/core-types.ts';
import type { Effect } from '../core/effects.ts';
import { runsOf } from './runs.ts';
import { Uplink } from './uplink.ts';

/** How often an owner looks for silent members. */
const EXPIRY_TICK_MS = 60_000;

/** How long a root asks holders, after its start or a change of roots. (tunable) */
const TAKEOVER_MS = 10 * 60_000;

/** Depth to assume before a place is known: right below the owner. */
const NO_PLACE_DEPTH = 1;

/** Hops from a relay to the owner for a host below relays: 11 for 1,024 relays, 4 for detours. */
const RELAY_HOPS = depthBound(1_024, INNER_CHILDREN) + HOPS_SLACK;

/** A tree that a host takes part in: as its owner, with a place, or waiting for a place. */
export interface TreeSeat {
  readonly digest: Digest;
  readonly stripe: number;
  readonly place?: Place;
}

/** The hosts that keep trees, for this host to use. */
export interface Upstreams {
  /** All roots, this host among them if it is one. */
  readonly roots: readonly HostAddress[];
  /** Relays of this host's group, itself included if it is one; none: it is in the roots' trees. */
  readonly relays?: readonly HostAddress[];
}

/** Settings of a `HostCore`. */
export interface HostCoreInit extends Upstreams {
  readonly self: HostCard;
  /** A root keeps trees of its own stripes; a relay keeps its group's part of the roots' trees. */
  readonly role: AgentRole;
  readonly blocks?: Partial<CoreInit>;
  readonly topology?: Omit<TopologyInit, 'self'>;
  readonly reportIntervalMs?: number;
}

/** What a `HostCore` needs of its host. */
interface HostCoreComponents<P> {
  readonly ops: PayloadOps<P>;
  readonly random: Random;
  readonly held: (digest: Digest, index: BlockIndex) => boolean;
  /** Blocks in the store, ascending. */
  readonly blocksOf: (digest: Digest) => readonly BlockIndex[];
  /** Whether wrong blocks of the blob were attested: no host is asked for what it holds of it. */
  readonly isDistrusted?: (digest: Digest) => boolean;
  /** The registry that has a blob; '' when there is but one, and for all unconfigured ones. */
  readonly sourceKey?: (digest: Digest) => string;
}

/** Work for the driver: effects of the block reducer on the world, and messages to owners. */
export type HostEffect<P, T> =
  | Exclude<Effect<P, T>, { type: 'touched' | 'no-holder' }>
  | { readonly type: 'tree'; readonly effect: MembershipEffect };

/**
 * All logic of an agent in one reducer: the way of a block, the membership in trees and, on a root,
 * the topology of its own trees. Calls take the time; `take()` returns the effects; callers reach
 * the block reducer through `blocks`.
 */
export class HostCore<P, T> {
  readonly blocks: BlockCore<P, T>;
  readonly #membership: Membership;
  /** On a relay: its membership in the trees of the roots. */
  readonly #uplink: Uplink | undefined;
  readonly #memberships: readonly Membership[];
  readonly #topology: Topology | undefined;
  readonly #of: Pick<HostCoreComponents<P>, 'blocksOf' | 'isDistrusted' | 'sourceKey'>;
  readonly #self: PeerId;
  readonly #wanted = new Map<Digest, LocatedBlob>();
  #effects: HostEffect<P, T>[] = [];
  /** Roots above the trees that this host is in; empty without relays. */
  #above: readonly PeerSource[] = [];
  #expiryMs: number | undefined;
  /** The hosts that keep trees as this one does, in the order in which they own a stripe. */
  #ring = new RootRing([]);
  #ringPeers: ReadonlySet<PeerId> = new Set();
  #takeoverEndMs: number | undefined;
  #nowMs = 0;

  constructor(components: HostCoreComponents<P>, init: HostCoreInit) {
    this.#of = components;
    this.#self = init.self.peer;
    const { self, role, reportIntervalMs } = init;
    const keepsTrees = role !== 'child';
    const member = {
      self,
      nextTicket: counter(),
      ...(reportIntervalMs !== undefined && { reportIntervalMs }),
    };
    this.#membership = new Membership({ ...member, isRoot: keepsTrees, random: components.random });
    this.#uplink = role === 'relay' ? new Uplink(components, member) : undefined;
    this.#memberships =
      this.#uplink === undefined ? [this.#membership] : [this.#membership, this.#uplink.membership];
    const onTrees = (digest: Digest, any: boolean): void => this.#onTrees(digest, any);
    this.#topology = keepsTrees ? new Topology({ ...init.topology, self, onTrees }) : undefined;
    this.blocks = new BlockCore(
      {
        ops: components.ops,
        random: components.random,
        held: components.held,
        routes: this.#routes(),
      },
      init.blocks,
    );
    this.rootsChanged(init, 0);
  }

  /** The effects since the last call, in order. */
  take(): readonly HostEffect<P, T>[] {
    for (const effect of this.blocks.take()) {
      if (effect.type === 'touched') this.#topology?.touch(effect.digest, effect.index);
      else if (effect.type === 'no-holder') this.#topology?.distrust(effect.peer, this.#nowMs);
      else this.#effects.push(effect);
      if (effect.type === 'lost') this.#peerLost(effect.peer);
    }
    const effects = this.#effects;
    if (effects.length > 0) this.#effects = [];
    return effects;
  }

  get nextWakeMs(): number | undefined {
    let wakeMs = this.#expiryMs ?? Number.POSITIVE_INFINITY;
    wakeMs = Math.min(wakeMs, this.blocks.nextWakeMs ?? wakeMs);
    for (const { nextWakeMs } of this.#memberships) wakeMs = Math.min(wakeMs, nextWakeMs ?? wakeMs);
    return wakeMs === Number.POSITIVE_INFINITY ? undefined : wakeMs;
  }

  /** Runs the timers that are due; also called once at the start. */
  tick(nowMs: number): void {
    this.#nowMs = nowMs;
    this.#takeoverEndMs ??= nowMs + TAKEOVER_MS;
    this.blocks.tick(nowMs);
    for (const membership of this.#memberships) {
      const due = membership.nextWakeMs;
      if (due !== undefined && due <= nowMs) this.#tree(membership.tick(nowMs));
    }
    if (this.#topology !== undefined && nowMs >= (this.#expiryMs ?? 0)) {
      this.#topology.tick(nowMs);
      this.#expiryMs = nowMs + EXPIRY_TICK_MS;
      this.#releaseUplink();
    }
  }

  /** The roots and relays that exist now: called when their names resolve to others. */
  rootsChanged({ roots, relays = [] }: Upstreams, nowMs: number): void {
    this.#nowMs = nowMs;
    const ring = relays.length > 0 ? relays : roots;
    this.#above = ring === roots ? [] : roots.map((host) => ({ host, role: 'root' }));
    this.#topology?.rootsChanged(ring.length);
    this.#takeOver(ring, nowMs);
    this.#tree(this.#membership.rootsChanged(ring, nowMs));
    if (this.#uplink === undefined) return;
    this.#tree(this.#uplink.rootsChanged(roots, nowMs));
    this.#keepWanted();
  }

  /**
   * This host wants to read the blobs: joins their trees. Throws TransferError when one cannot be
   * read; then nothing has changed.
   */
  want(blobs: readonly LocatedBlob[], nowMs: number): void {
    this.#nowMs = nowMs;
    const release = this.#holdAll(blobs);
    for (const open of blobs) {
      const { digest } = open.blob;
      if (!this.#wanted.has(digest)) this.blocks.hold(open.blob);
      this.#wanted.set(digest, open);
    }
    release();
    const wanted = blobs.map(({ blob, origin }) => ({
      blob,
      origin,
      held: () => runsOf(this.#of.blocksOf(blob.digest)),
    }));
    this.#tree(this.#membership.want(wanted, nowMs));
    this.#keepWanted();
  }

  unwant(digests: readonly Digest[], nowMs: number): void {
    this.#nowMs = nowMs;
    for (const digest of digests) {
      if (this.#wanted.delete(digest)) this.blocks.letGo(digest);
      this.#tree(this.#membership.unwant(digest, nowMs));
    }
    this.#releaseUplink();
  }

  /**
   * Sets the size that counts, by the registry's word. Hosts that name another size are refused
   * from now on: the blob's trees and blocks of another size go, and this host joins again for its
   * own reads.
   */
  confirm(ref: BlobRef, nowMs: number): void {
    this.#nowMs = nowMs;
    const known = this.blocks.blob(ref.digest);
    const differs = known !== undefined && known.sizeBytes !== ref.sizeBytes;
    this.blocks.confirm(ref, nowMs);
    if (!differs) return;
    const open = this.#wanted.get(ref.digest);
    this.#topology?.drop(ref.digest, nowMs);
    this.#tree(this.#membership.unwant(ref.digest, nowMs));
    this.#tree(this.#uplink?.release((digest) => digest !== ref.digest, nowMs) ?? []);
    if (open !== undefined) this.want([{ ...open, blob: ref }], nowMs);
  }

  /** Whether each stripe of the blob has a place, is owned here, or was refused a place. */
  isSettled({ digest, sizeBytes }: BlobRef): boolean {
    for (let stripe = 0; stripe < stripeCount(sizeBytes); stripe++) {
      if (this.#owns(digest, stripe) || this.#placeOf(digest, stripe) !== undefined) continue;
      if (!this.#memberships.some((each) => each.isRefused(digest, stripe))) return false;
    }
    return true;
  }

  /** The trees that this host takes part in: as a child with a place, or as the owner. */
  trees(): readonly TreeSeat[] {
    const seats: TreeSeat[] = [];
    const add = (digest: Digest, stripe: number): void => {
      const place = this.#placeOf(digest, stripe);
      seats.push({ digest, stripe, ...(place !== undefined && { place }) });
    };
    for (const { blob } of this.#wanted.values()) {
      for (let stripe = 0; stripe < stripeCount(blob.sizeBytes); stripe++) add(blob.digest, stripe);
    }
    for (const { digest, stripe } of this.#topology?.trees() ?? []) {
      if (!this.#wanted.has(digest)) add(digest, stripe);
    }
    return seats;
  }

  /** The trees that this root or relay keeps; undefined on a child. */
  get topology(): Topology | undefined {
    return this.#topology;
  }

  /**
   * A host joins trees of this root or relay. A blob that is over a bound, or known with another
   * size, gets no place; the others do. Throws TreeError; then nothing has changed.
   */
  join(peer: PeerId, request: JoinRequest, nowMs: number): JoinReply {
    this.#nowMs = nowMs;
    const owner = this.#owner();
    owner.check(peer, request);
    const releases: (() => void)[] = [];
    const isHeld = (wanted: WantedBlob): boolean => {
      try {
        releases.push(this.#holdAll([wanted]));
        return true;
      } catch (error) {
        if (error instanceof TransferError) return false;
        throw error;
      }
    };
    const blobs = request.blobs.filter(isHeld);
    const reply = owner.join(peer, { ...request, blobs }, nowMs);
    for (const release of releases) release();
    const placed = blobs.filter(({ blob }) => owner.hasTree(blob.digest));
    if (this.#uplink !== undefined) this.#tree(this.#uplink.keep(placed, nowMs));
    return reply;
  }

  leave(peer: PeerId, request: LeaveRequest, nowMs: number): void {
    this.#nowMs = nowMs;
    this.#owner().leave(peer, request, nowMs);
    this.#releaseUplink();
  }

  report(peer: PeerId, request: ReportRequest, nowMs: number): ReportReply {
    this.#nowMs = nowMs;
    return this.#owner().report(peer, request, nowMs);
  }

  joinReply(ticket: number, reply: JoinReply, nowMs: number): void {
    this.#nowMs = nowMs;
    for (const each of this.#memberships) this.#tree(each.joinReply(ticket, reply, nowMs));
    for (const order of reply.orders) this.blocks.order(order, nowMs);
  }

  joinFailed(ticket: number, nowMs: number, failure: CallFailure): void {
    this.#nowMs = nowMs;
    for (const each of this.#memberships) this.#tree(each.joinFailed(ticket, nowMs, failure));
  }

  reportReply(ticket: number, reply: ReportReply, nowMs: number): void {
    this.#nowMs = nowMs;
    for (const each of this.#memberships) this.#tree(each.reportReply(ticket, reply, nowMs));
  }

  reportFailed(ticket: number, nowMs: number, failure: CallFailure): void {
    this.#nowMs = nowMs;
    for (const each of this.#memberships) this.#tree(each.reportFailed(ticket, nowMs, failure));
  }

  leaveDone(ticket: number, nowMs: number): void {
    this.#nowMs = nowMs;
    for (const each of this.#memberships) this.#tree(each.leaveDone(ticket, nowMs));
  }

  /** A peer told the order in which a blob is touched: this host believes only its own sources. */
  orderFrom(peer: PeerId, order: TouchOrder, nowMs: number): void {
    this.#nowMs = nowMs;
    const blob = this.blocks.blob(order.digest);
    if (blob === undefined) return;
    for (let stripe = 0; stripe < stripeCount(blob.sizeBytes); stripe++) {
      const sources = this.#sources(order.digest, stripe);
      if (!sources.some(({ host }) => host.peer === peer)) continue;
      this.blocks.order(order, nowMs);
      return;
    }
  }

  /** The peer shows no sign of life while a call waits for it. */
  peerSilent(peer: PeerId, nowMs: number): void {
    this.#nowMs = nowMs;
    for (const membership of this.#memberships) this.#tree(membership.peerSilent(peer, nowMs));
  }

  /** The last connection to the peer closed. */
  peerGone(peer: PeerId, nowMs: number): void {
    this.#nowMs = nowMs;
    this.blocks.peerGone(peer, nowMs);
    this.#peerLost(peer);
  }

  #routes(): Routes {
    return {
      sources: (digest, stripe) => this.#sources(digest, stripe),
      isRoot: (peer) =>
        this.#ringPeers.has(peer) || this.#above.some(({ host }) => host.peer === peer),
      owns: (digest, stripe) => this.#owns(digest, stripe),
      keeps: (digest, stripe) => this.#keeps(digest, stripe),
      holders: (digest, index, nowMs) => this.#holders(digest, index, nowMs),
      kin: (digest, stripe) => this.#memberships.flatMap((each) => each.kinOf(digest, stripe)),
      sourceKey: (digest) => this.#of.sourceKey?.(digest) ?? '',
      depth: (digest, stripe) => {
        if (this.#owns(digest, stripe)) return 0;
        const depth = this.#placeOf(digest, stripe)?.path.length ?? NO_PLACE_DEPTH;
        const ends = this.#above.length === 0 || this.#liesAbove(digest, stripe);
        return ends ? depth : depth + RELAY_HOPS;
      },
    };
  }

  /** Whether this host is a relay that gets the stripe from the trees of the roots. */
  #liesAbove(digest: Digest, stripe: number): boolean {
    return this.#uplink !== undefined && this.#keeps(digest, stripe);
  }

  #placeOf(digest: Digest, stripe: number): Place | undefined {
    const membership = this.#liesAbove(digest, stripe) ? this.#uplink?.membership : undefined;
    return (membership ?? this.#membership).placeOf(digest, stripe);
  }

  #sources(digest: Digest, stripe: number): readonly PeerSource[] {
    if (this.#liesAbove(digest, stripe)) {
      const sources = this.#uplink?.membership.sources(digest, stripe) ?? [];
      return sources.length > 0 ? sources : this.#above;
    }
    const sources = this.#membership.sources(digest, stripe);
    return this.#above.length === 0 ? sources : [...sources, ...this.#above];
  }

  /** Whether this host reads the stripe from the registry. */
  #owns(digest: Digest, stripe: number): boolean {
    return this.#uplink === undefined && this.#keeps(digest, stripe);
  }

  /** Whether this host keeps the tree of the stripe. */
  #keeps(digest: Digest, stripe: number): boolean {
    if (this.#topology === undefined) return false;
    if (this.#membership.isOwner(digest, stripe)) return true;
    // Hosts join here when the roots before this one are down for them. The tree is not this host's
    // if it reads from one of those.
    const isChild = this.#membership.sources(digest, stripe).length > 0;
    return !isChild && this.#topology.hasTree(digest, stripe);
  }

  /**
   * Keeps the blobs known until the returned function is called. Throws TransferError; then it
   * keeps none.
   */
  #holdAll(blobs: readonly Pick<LocatedBlob, 'blob'>[]): () => void {
    const held: Digest[] = [];
    const release = (): void => {
      for (const digest of held) this.blocks.letGo(digest);
    };
    try {
      for (const { blob } of blobs) {
        this.blocks.hold(blob);
        held.push(blob.digest);
      }
    } catch (error) {
      release();
      throw error;
    }
    return release;
  }

  /** The first child joined a tree of a blob here, or the last one left. */
  #onTrees(digest: Digest, any: boolean): void {
    const blob = this.blocks.blob(digest);
    if (!any) this.blocks.letGo(digest);
    else if (blob !== undefined) this.blocks.hold(blob);
  }

  /** A relay joins the trees of the roots for the blobs that it keeps and its own host wants. */
  #keepWanted(): void {
    if (this.#uplink === undefined) return;
    const blobs = [...this.#wanted.values()].map((open) => {
      const { digest, sizeBytes } = open.blob;
      const all = [...Array(stripeCount(sizeBytes)).keys()];
      return { ...open, stripes: all.filter((stripe) => this.#keeps(digest, stripe)) };
    });
    this.#tree(this.#uplink.keep(blobs, this.#nowMs));
  }

  #releaseUplink(): void {
    const isWanted = (digest: Digest): boolean =>
      this.#wanted.has(digest) || this.#topology?.hasTree(digest) === true;
    this.#tree(this.#uplink?.release(isWanted, this.#nowMs) ?? []);
  }

  /** With other roots, or relays, stripes change hands. */
  #takeOver(ring: readonly HostAddress[], nowMs: number): void {
    const peers = new Set([...ring.map(({ peer }) => peer), this.#self]);
    const isNew = [...peers].some((peer) => !this.#ringPeers.has(peer));
    if (!isNew && peers.size === this.#ringPeers.size) return;
    this.#ringPeers = peers;
    this.#ring = new RootRing(peers);
    if (this.#takeoverEndMs !== undefined) this.#takeoverEndMs = nowMs + TAKEOVER_MS;
  }

  #peerLost(peer: PeerId): void {
    for (const membership of this.#memberships) {
      this.#tree(membership.peerLost(peer, this.#nowMs));
    }
  }

  /** Only blobs that recently came to this root may be held by others and not by it. */
  #holders(digest: Digest, index: BlockIndex, nowMs: number): readonly HostAddress[] {
    const topology = this.#topology;
    if (topology === undefined || this.#of.isDistrusted?.(digest) === true) return [];
    const blob = this.blocks.blob(digest);
    const stripe = blob === undefined ? 0 : index % stripeCount(blob.sizeBytes);
    const isFirst = this.#ring.order(digest, stripe)[0] === this.#self;
    if (isFirst && nowMs > (this.#takeoverEndMs ??= nowMs + TAKEOVER_MS)) return [];
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
