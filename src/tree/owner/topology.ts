import { type BlobRef, type BlockIndex, stripeCount } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import { assert } from '../../util/assert.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import type { PeerId } from '../../util/peer-id.ts';
import { SmallMap } from '../../util/small-map.ts';
import { BlobFacts } from './blob-facts.ts';
import { Colours, innerFanOut, ownerFanOut } from './colours.ts';
import { TreeError } from '../errors.ts';
import {
  BLOBS_PER_JOIN_MAX,
  COLOURS,
  INNER_CHILDREN,
  GHOSTS_MAX,
  HOSTS_MAX,
  LOST_PER_REPORT_MAX,
  LOST_WINDOW_MS,
  MEMBER_EXPIRY_MS,
  MEMBERS_PER_TREE_MAX,
  PLACES_PER_REPORT_MAX,
  TREES_MAX,
  UNLISTED_MS,
} from '../limits.ts';
import type {
  HostCard,
  JoinReply,
  JoinRequest,
  LeaveRequest,
  Place,
  ReportReply,
  ReportRequest,
  TouchOrder,
} from '../messages.ts';
import type { HostState, Member } from './nodes.ts';
import { mayUse, PlaceIssuer } from './places.ts';
import { StripeTree } from './stripe-tree.ts';

/** Settings of a `Topology`. */
export interface TopologyInit {
  /** The owner: the root of all its trees. */
  readonly self: HostCard;
  /** Children of a host in one tree, at least 2; with colours, one more for each other colour. */
  readonly fanOut?: number;
  /** Colours of trees, at least 1. */
  readonly colours?: number;
  /** Children of the owner in one tree; when absent it follows from the number of roots. */
  readonly rootFanOut?: number;
  /** Silence after which a host is taken out of its trees, in milliseconds. */
  readonly expiryMs?: number;
  /** Alternate parents named in a place. */
  readonly alternatesMax?: number;
  /** Epochs start above this; a restarted owner must pass its own: wall-clock milliseconds do. */
  readonly epochBase?: number;
  /** Bounds, smaller in tests. */
  readonly hostsMax?: number;
  readonly treesMax?: number;
  readonly membersPerTreeMax?: number;
  /** Called when a blob gets its first tree, and when it has lost its last. */
  readonly onTrees?: (digest: Digest, any: boolean) => void;
}

/** A host known to the owner. */
interface Host extends HostState {
  card: HostCard;
  heardMs: number;
  /** The last parent that it was given, by colour of the tree. */
  readonly parents: (HostState | undefined)[];
  /** Children that did not reach it, and when they said so. */
  readonly lostBy: Map<PeerId, number>;
  readonly members: Map<StripeTree, Member>;
  /** Trees that it was the first to want and still wants. */
  founded: number;
}

function ghostKey(peer: PeerId, tree: StripeTree): string {
  return `${peer} ${tree.digest}/${tree.stripe}`;
}

/** One edge of a tree, for people and tests. */
export interface TreeEdge {
  readonly peer: PeerId;
  readonly parent: PeerId;
  readonly zone: string;
  /** Hops to the owner. */
  readonly depth: number;
}

/** Counts of one tree, for people and tests. */
export interface TreeSummary {
  readonly digest: Digest;
  readonly stripe: number;
  readonly memberCount: number;
}

/**
 * The owner's side of its trees, as a synchronous reducer: each call is one event at `nowMs` (any
 * monotonic milliseconds) and returns the reply. `tick()` is due now and then (a minute is fine).
 *
 * `PlaceIssuer` decides the places told to hosts, `StripeTree` the parent of each host; `BlobFacts`
 * keeps holders and touch order. Errors: TreeError; a call that throws has changed nothing.
 */
export class Topology {
  readonly #self: HostState;
  readonly #card: HostCard;
  readonly #fanOut: number;
  #rootFanOut: number;
  readonly #isRootFanOutSet: boolean;
  readonly #colours: Colours;
  readonly #expiryMs: number;
  readonly #hostsMax: number;
  readonly #treesMax: number;
  readonly #membersMax: number;
  readonly #onTrees: (digest: Digest, any: boolean) => void;
  readonly #issuer: PlaceIssuer<StripeTree>;
  readonly #facts = new BlobFacts();
  /** Heard least recently first. */
  readonly #hosts = new Map<PeerId, Host>();
  readonly #trees = new Map<Digest, SmallMap<number, StripeTree>>();
  /** The first host that wanted a tree, while it still wants it. */
  readonly #founders = new Map<StripeTree, Host>();
  /** Hosts that founded a tree. */
  #founderCount = 0;
  /** Hosts removed without their word, as `peer digest/stripe`, oldest first: may hold a place. */
  readonly #ghosts = new BoundedMap<string, true>({ entriesMax: GHOSTS_MAX });
  #treeCount = 0;
  #hostsSeen = 0;

  constructor(init: TopologyInit) {
    const { peer, addresses } = init.self;
    this.#card = init.self;
    this.#fanOut = init.fanOut ?? INNER_CHILDREN;
    this.#colours = new Colours({ count: init.colours ?? COLOURS });
    this.#isRootFanOutSet = init.rootFanOut !== undefined;
    this.#rootFanOut = init.rootFanOut ?? innerFanOut(this.#fanOut, this.#colours.count);
    assert(this.#fanOut >= 2, `a fan-out of ${this.#fanOut} is below 2`);
    assert(
      this.#rootFanOut >= this.#fanOut,
      `the owner's fan-out ${this.#rootFanOut} is below that of hosts, ${this.#fanOut}`,
    );
    this.#self = {
      address: { peer, addresses },
      capacity: this.#rootFanOut,
      load: 0,
      order: 0,
      colour: 0,
      suspected: false,
    };
    this.#expiryMs = init.expiryMs ?? MEMBER_EXPIRY_MS;
    this.#hostsMax = init.hostsMax ?? HOSTS_MAX;
    this.#treesMax = init.treesMax ?? TREES_MAX;
    this.#membersMax = init.membersPerTreeMax ?? MEMBERS_PER_TREE_MAX;
    this.#onTrees = init.onTrees ?? (() => {});
    this.#issuer = new PlaceIssuer({
      alternatesMax: init.alternatesMax ?? 2,
      epochBase: init.epochBase ?? 0,
      memberOf: (tree, member) => this.#hosts.get(member)?.members.get(tree),
    });
  }

  /** The number of roots that share the stripes: bounds the owner's children in later trees. */
  rootsChanged(count: number): void {
    if (this.#isRootFanOutSet) return;
    this.#rootFanOut = ownerFanOut(this.#fanOut, this.#colours.count, count);
  }

  /** Gives `peer` its places, the same when asked again; none in a full tree, or over a bound. */
  join(peer: PeerId, request: JoinRequest, nowMs: number): JoinReply {
    this.check(peer, request);
    const host = this.#admit(peer, request.host, nowMs);
    const places: Place[] = [];
    const orders: TouchOrder[] = [];
    for (const wanted of request.blobs) {
      const digest = wanted.blob.digest;
      const placesBefore = places.length;
      for (const stripe of wanted.stripes) {
        const known = this.#trees.get(digest)?.get(stripe);
        let member = known && host.members.get(known);
        if (member === undefined && !this.#hasRoom(host, known)) continue;
        const tree = known ?? this.#found(host, wanted.blob, stripe);
        if (member === undefined) {
          member = this.#add(host, tree, nowMs);
          // Until it says that it has the new place, nobody is placed below it.
          member.unsure = this.#ghosts.count > 0 && this.#ghosts.delete(ghostKey(peer, tree));
          host.members.set(tree, member);
        }
        member.seenMs = nowMs;
        places.push(this.#issuer.issue(tree, member));
      }
      if (places.length === placesBefore) continue;
      this.#facts.setHeld(peer, { digest, runs: wanted.held }, nowMs);
      const indices = this.#facts.orderOf(digest);
      if (indices.length > 0) orders.push({ digest, indices });
    }
    if (host.members.size === 0) this.#forget(host);
    return { places, orders };
  }

  leave(peer: PeerId, request: LeaveRequest, nowMs: number): void {
    const host = this.#hosts.get(peer);
    if (host === undefined) return;
    this.#heard(host, nowMs);
    for (const digest of request.digests) {
      this.#facts.drop(peer, digest);
      for (const tree of [...(this.#trees.get(digest)?.values() ?? [])]) {
        this.#remove(host, tree, nowMs);
      }
    }
    if (host.members.size === 0) this.#forget(host);
  }

  /** Takes a report: lost peers, and the places the host holds. Replies with corrections. */
  report(peer: PeerId, request: ReportRequest, nowMs: number): ReportReply {
    if (request.held.length > PLACES_PER_REPORT_MAX) {
      throw new TreeError(
        `the report of ${peer} lists ${request.held.length} places; ` +
          `at most ${PLACES_PER_REPORT_MAX} are taken`,
        { code: 'invalid', field: 'held' },
      );
    }
    const host = this.#hosts.get(peer);
    const unknown = new Set<Digest>();
    if (host === undefined) {
      for (const { digest } of request.held) unknown.add(digest);
      return { places: [], unknown: [...unknown] };
    }
    this.#heard(host, nowMs);
    for (const lost of request.lost.slice(0, LOST_PER_REPORT_MAX)) this.#lost(host, lost, nowMs);
    const places: Place[] = [];
    for (const { digest, stripe, epoch } of request.held) {
      const tree = this.#trees.get(digest)?.get(stripe);
      const member = tree === undefined ? undefined : host.members.get(tree);
      if (tree === undefined || member === undefined) {
        unknown.add(digest);
        continue;
      }
      member.seenMs = nowMs;
      const place = this.#issuer.review(tree, member, epoch);
      if (place !== undefined) places.push(place);
    }
    for (const [tree, member] of host.members) {
      if (nowMs - member.seenMs > UNLISTED_MS) this.#evict(host, tree, nowMs);
    }
    return { places, unknown: [...unknown] };
  }

  /** Time passes: hosts that were silent for too long are taken out. */
  tick(nowMs: number): void {
    for (const host of this.#hosts.values()) {
      if (nowMs - host.heardMs <= this.#expiryMs) return;
      for (const tree of [...host.members.keys()]) this.#evict(host, tree, nowMs);
      this.#forget(host);
    }
  }

  /** Records a read of the block; replies to JOIN carry the order of first touches. */
  touch(digest: Digest, index: BlockIndex): void {
    this.#facts.touch(digest, index);
  }

  /** At most 8 hosts that claimed the block at JOIN and are here: asked before the registry. */
  holders(digest: Digest, index: BlockIndex): PeerId[] {
    return this.#facts.holders(digest, index);
  }

  /** The host did not give a block that it claimed to hold: its claims do not count for a while. */
  distrust(peer: PeerId, nowMs: number): void {
    this.#facts.distrust(peer, nowMs);
  }

  /** The card of a known host. */
  addressOf(peer: PeerId): HostCard | undefined {
    return this.#hosts.get(peer)?.card;
  }

  trees(): TreeSummary[] {
    const found: TreeSummary[] = [];
    for (const [digest, stripes] of this.#trees) {
      for (const [stripe, tree] of stripes) {
        found.push({ digest, stripe, memberCount: tree.memberCount });
      }
    }
    return found;
  }

  /** Whether anybody is in a tree of the blob, or in that of the stripe. */
  hasTree(digest: Digest, stripe?: number): boolean {
    const stripes = this.#trees.get(digest);
    return stripe === undefined ? stripes !== undefined : stripes?.has(stripe) === true;
  }

  /** Takes every host out of the blob's trees: their next report tells them so. */
  drop(digest: Digest, nowMs: number): void {
    const trees = [...(this.#trees.get(digest)?.values() ?? [])];
    if (trees.length === 0) return;
    for (const host of [...this.#hosts.values()]) {
      this.#facts.drop(host.card.peer, digest);
      for (const tree of trees) if (host.members.has(tree)) this.#evict(host, tree, nowMs);
      if (host.members.size === 0) this.#forget(host);
    }
  }

  /** All edges of a tree, in the order of first JOINs here. Costs a visit to every known host. */
  edges(digest: Digest, stripe: number): TreeEdge[] {
    const tree = this.#trees.get(digest)?.get(stripe);
    if (tree === undefined) return [];
    const found: { edge: TreeEdge; order: number }[] = [];
    for (const [peer, host] of this.#hosts) {
      const member = host.members.get(tree);
      if (member?.parent === undefined) continue;
      let depth = 0;
      for (let at = member; at.parent !== undefined; at = at.parent) depth++;
      const parent = member.parent.host.address.peer;
      found.push({ edge: { peer, parent, zone: host.card.zone, depth }, order: host.order });
    }
    return found.sort((a, b) => a.order - b.order).map(({ edge }) => edge);
  }

  /** Throws TreeError when the JOIN breaks a rule, or comes from one host too many. */
  check(peer: PeerId, request: JoinRequest): void {
    const refuse = (field: string, text: string): never => {
      throw new TreeError(`the JOIN of ${peer} is refused: ${text}`, { code: 'invalid', field });
    };
    const { host, blobs } = request;
    if (host.peer !== peer) refuse('host', `it introduces itself as ${host.peer}`);
    if (peer === this.#card.peer) refuse('host', 'the owner is no member of its own trees');
    if (!Number.isInteger(host.capacity) || host.capacity < 0) {
      refuse('capacity', `a capacity is a whole number from 0, not ${host.capacity}`);
    }
    if (blobs.length > BLOBS_PER_JOIN_MAX) {
      refuse('blobs', `it lists ${blobs.length} blobs; at most ${BLOBS_PER_JOIN_MAX} are taken`);
    }
    for (const { blob, stripes } of blobs) {
      const count = stripeCount(blob.sizeBytes);
      if (stripes.length > count) {
        refuse('stripes', `${blob.digest} has ${count} stripes, not ${stripes.length}`);
      }
      for (const stripe of stripes) {
        if (!Number.isInteger(stripe) || stripe < 0 || stripe >= count) {
          refuse('stripes', `${blob.digest} has stripes 0 to ${count - 1}, not ${stripe}`);
        }
      }
    }
    if (this.#hosts.has(peer) || this.#hosts.size < this.#hostsMax) return;
    const limit = this.#hostsMax;
    throw new TreeError(
      `the JOIN of ${peer} is refused: this owner keeps at most ${limit} hosts; ` +
        'add roots, or wait until hosts leave',
      { code: 'full', what: 'hosts', limit },
    );
  }

  /**
   * Whether a host may join a tree, or found one. Once half of the maximum number of trees exists,
   * a host founds no more than its equal part of that half; and never more than a quarter of all.
   */
  #hasRoom(host: Host, tree: StripeTree | undefined): boolean {
    if (host.members.size >= PLACES_PER_REPORT_MAX) return false;
    if (tree !== undefined) return tree.memberCount < this.#membersMax;
    if (this.#treeCount >= this.#treesMax) return false;
    const founders = this.#founderCount + (host.founded === 0 ? 1 : 0);
    const isTight = this.#treeCount >= this.#treesMax / 2;
    const share = this.#treesMax / (isTight ? 2 * founders : 4);
    return host.founded < Math.max(1, Math.min(share, this.#treesMax / 4));
  }

  #found(host: Host, blob: BlobRef, stripe: number): StripeTree {
    const tree = this.#treeOf(blob, stripe);
    this.#founders.set(tree, host);
    if (host.founded++ === 0) this.#founderCount++;
    return tree;
  }

  #unfound(tree: StripeTree): void {
    const host = this.#founders.get(tree);
    if (host === undefined) return;
    this.#founders.delete(tree);
    if (--host.founded === 0) this.#founderCount--;
  }

  /** The host of a JOIN, new or known; a known one may come with another card. */
  #admit(peer: PeerId, card: HostCard, nowMs: number): Host {
    const known = this.#hosts.get(peer);
    if (known === undefined) {
      const host: Host = {
        card,
        address: { peer, addresses: card.addresses },
        capacity: card.capacity,
        load: 0,
        order: ++this.#hostsSeen,
        colour: this.#colours.paintHost(card.zone),
        parents: [],
        suspected: false,
        heardMs: nowMs,
        lostBy: new Map(),
        members: new Map(),
        founded: 0,
      };
      this.#hosts.set(peer, host);
      return host;
    }
    const old = known.card;
    known.card = card;
    known.capacity = card.capacity;
    if (old.addresses.join() !== card.addresses.join()) {
      known.address = { peer, addresses: card.addresses };
    }
    this.#heard(known, nowMs);
    if (old.zone !== card.zone) {
      this.#colours.dropHost(old.zone, known.colour);
      known.colour = this.#colours.paintHost(card.zone);
      for (const tree of [...known.members.keys()]) this.#rezone(known, tree, nowMs);
    } else if (old.capacity !== card.capacity) {
      for (const [tree, member] of known.members) tree.relimit(member, nowMs);
    }
    return known;
  }

  #forget(host: Host): void {
    const { peer, zone } = host.card;
    this.#hosts.delete(peer);
    this.#facts.drop(peer);
    this.#colours.dropHost(zone, host.colour);
  }

  /** Adds a host to a tree, if it can under its parent in another tree of the colour. */
  #add(host: Host, tree: StripeTree, nowMs: number): Member {
    const parent = host.parents[tree.colour];
    const liked = parent === this.#self ? tree.root : this.#memberOf(tree, parent);
    const member = tree.add(host, { zone: host.card.zone, liked }, nowMs);
    host.parents[tree.colour] = member.parent?.host;
    return member;
  }

  #memberOf(tree: StripeTree, host: HostState | undefined): Member | undefined {
    return host === undefined ? undefined : this.#hosts.get(host.address.peer)?.members.get(tree);
  }

  #rezone(host: Host, tree: StripeTree, nowMs: number): void {
    const member = host.members.get(tree);
    if (member === undefined) return;
    tree.remove(member, nowMs);
    const next = this.#add(host, tree, nowMs);
    // The host still holds its old path: its permitted sources still count.
    next.issued = member.issued;
    next.issuedEpoch = member.issuedEpoch;
    next.acked = member.acked;
    next.unsure = member.unsure;
    host.members.set(tree, next);
  }

  #heard(host: Host, nowMs: number): void {
    const peer = host.card.peer;
    host.heardMs = nowMs;
    this.#hosts.delete(peer);
    this.#hosts.set(peer, host);
    if (!host.suspected) return;
    host.suspected = false;
    host.lostBy.clear();
    for (const [tree, member] of host.members) tree.relimit(member, nowMs);
  }

  #treeOf({ digest, sizeBytes }: BlobRef, stripe: number): StripeTree {
    let stripes = this.#trees.get(digest);
    if (stripes === undefined) {
      this.#trees.set(digest, (stripes = new SmallMap()));
      this.#onTrees(digest, true);
    }
    let tree = stripes.get(stripe);
    if (tree === undefined) {
      const stripeBytes = sizeBytes / stripeCount(sizeBytes);
      tree = new StripeTree({
        digest,
        stripe,
        sizeBytes: stripeBytes,
        colour: this.#colours.paintTree(stripeBytes),
        colours: this.#colours.count,
        owner: this.#self,
        ownerZone: this.#card.zone,
        fanOut: this.#fanOut,
        rootFanOut: this.#rootFanOut,
      });
      stripes.set(stripe, tree);
      this.#treeCount++;
    }
    return tree;
  }

  /** Takes out a host that did not send a LEAVE. */
  #evict(host: Host, tree: StripeTree, nowMs: number): void {
    this.#ghosts.set(ghostKey(host.card.peer, tree), true);
    this.#remove(host, tree, nowMs);
  }

  #remove(host: Host, tree: StripeTree, nowMs: number): void {
    const member = host.members.get(tree);
    if (member === undefined) return;
    host.members.delete(tree);
    if (this.#founders.get(tree) === host) this.#unfound(tree);
    tree.remove(member, nowMs);
    if (tree.memberCount > 0) return;
    const stripes = this.#trees.get(tree.digest);
    stripes?.delete(tree.stripe);
    this.#treeCount--;
    if (stripes?.size === 0) {
      this.#trees.delete(tree.digest);
      this.#onTrees(tree.digest, false);
    }
    this.#colours.dropTree(tree.colour, tree.sizeBytes);
  }

  /**
   * A child did not reach a host. When two children say so, or all of them, the host is suspected:
   * it becomes a leaf everywhere, until it is heard from. Otherwise only that child moves away.
   */
  #lost(reporter: Host, peer: PeerId, nowMs: number): void {
    const host = this.#hosts.get(peer);
    if (host === undefined || host === reporter) return;
    const uses = [...reporter.members.values()].some((member) => mayUse(member, peer));
    if (!uses) return;
    for (const [other, atMs] of host.lostBy) {
      if (nowMs - atMs > LOST_WINDOW_MS) host.lostBy.delete(other);
    }
    host.lostBy.set(reporter.card.peer, nowMs);
    if (host.suspected) return;
    if (host.lostBy.size >= 2 || this.#allLost(host)) {
      host.suspected = true;
      for (const [tree, member] of host.members) tree.relimit(member, nowMs);
      return;
    }
    for (const [tree, member] of reporter.members) {
      const lost = host.members.get(tree);
      if (lost !== undefined && member.parent === lost) {
        tree.flee(member, lost, nowMs, LOST_WINDOW_MS);
      }
    }
  }

  /** Whether every child of the host, in every tree, has reported it. */
  #allLost(host: Host): boolean {
    if (host.load === 0) return false;
    for (const member of host.members.values()) {
      for (const child of [...member.kin, ...member.guests]) {
        if (!host.lostBy.has(child.host.address.peer)) return false;
      }
    }
    return true;
  }
}
