import { stripeCount } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import { jitter, type Random } from '../../runtime/random.ts';
import { backoffMs } from '../../util/backoff.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { counter } from '../../util/counter.ts';
import type { PeerId } from '../../util/peer-id.ts';
import { SmallMap } from '../../util/small-map.ts';
import {
  ACK_DELAY_MS,
  BLOBS_PER_JOIN_MAX,
  JOINS_UNDER_WAY_MAX,
  LOST_COOL_DOWN_MS,
  LOST_DELAY_MS,
  LOST_PER_REPORT_MAX,
  LOST_REMEMBERED_MAX,
  PLACES_PER_REPORT_MAX,
  REFUSED_MS,
  REFUSED_MS_MAX,
  REPORT_INTERVAL_MS,
  RETRY_MS,
} from '../limits.ts';
import type {
  HostAddress,
  HostCard,
  JoinReply,
  JoinRequest,
  LeaveRequest,
  Place,
  ReportReply,
  ReportRequest,
  WantedBlob,
} from '../messages.ts';
import { RootRing } from '../rendezvous.ts';
import { RootLink, type CallFailure } from './root-link.ts';
import { rankSources, Seat, SharedSources, type Source, type Wanted } from './seat.ts';

/**
 * A request for the caller to send. Exactly one outcome comes back with the ticket, within the
 * caller's deadline: `joinReply` or `joinFailed`, `reportReply` or `reportFailed`, `leaveDone`.
 */
export type MembershipEffect =
  | {
      readonly kind: 'join';
      readonly owner: HostAddress;
      readonly request: JoinRequest;
      readonly ticket: number;
    }
  | {
      readonly kind: 'report';
      readonly owner: HostAddress;
      readonly request: ReportRequest;
      readonly ticket: number;
    }
  | {
      readonly kind: 'leave';
      readonly owner: HostAddress;
      readonly request: LeaveRequest;
      readonly ticket: number;
    };

/** Settings of a `Membership`. */
export interface MembershipInit {
  readonly self: HostCard;
  /** This host is a root too: it owns the stripes that it comes first for, a child elsewhere. */
  readonly isRoot?: boolean;
  readonly random: Random;
  /** Milliseconds between reports. */
  readonly reportIntervalMs?: number;
  /** Names requests; one host's memberships share it, so that an outcome finds its request. */
  readonly nextTicket?: () => number;
}

type Link = RootLink<Seat>;

type Pending =
  | { readonly kind: 'join' | 'report'; readonly link: Link; readonly seats: readonly Seat[] }
  | { readonly kind: 'leave'; readonly link: Link; readonly digests: readonly Digest[] };

/**
 * A host's side of its trees, as a synchronous reducer: each call is an event at `nowMs` and
 * returns the requests to send. `tick()` is due at `nextWakeMs`.
 *
 * Per stripe: the owner is the first root in rendezvous order that is not down. A host joins there,
 * reports now and then, and takes the places in the answers. When its parent is lost it uses the
 * next ancestor of its path at once and reports. When the owner is down it keeps its place, joins
 * at the next root and tells its blocks. When an earlier root is back, new joins go to it; stripes
 * joined elsewhere move to it at their next report. A blob that a root refuses waits by itself.
 */
export class Membership {
  readonly #self: HostCard;
  readonly #isRoot: boolean;
  readonly #random: Random;
  readonly #reportIntervalMs: number;
  /** The live roots except this host. */
  readonly #links = new Map<PeerId, Link>();
  #ring = new RootRing([]);
  readonly #seats = new Map<Digest, SmallMap<number, Seat>>();
  /** Seats without a live root, and seats that this host owns in place of a root that is down. */
  readonly #unsettled = new Set<Seat>();
  readonly #lost = new BoundedMap<PeerId, number>({ entriesMax: LOST_REMEMBERED_MAX });
  readonly #pending = new Map<number, Pending>();
  #effects: MembershipEffect[] = [];
  /** Made anew when other hosts count as lost or as roots. */
  #sources = new SharedSources();
  readonly #nextTicket: () => number;
  /** Time of the last event. */
  #nowMs = 0;

  constructor(init: MembershipInit) {
    this.#self = init.self;
    this.#isRoot = init.isRoot ?? false;
    this.#random = init.random;
    this.#reportIntervalMs = init.reportIntervalMs ?? REPORT_INTERVAL_MS;
    this.#ring = new RootRing(this.#isRoot ? [init.self.peer] : []);
    this.#nextTicket = init.nextTicket ?? counter();
  }

  /** The roots believed to be alive (this host need not be among them). */
  rootsChanged(roots: readonly HostAddress[], nowMs: number): readonly MembershipEffect[] {
    const others = new Map(roots.map((root) => [root.peer, root]));
    others.delete(this.#self.peer);
    for (const [peer, root] of others) {
      const link = this.#links.get(peer);
      if (link === undefined) this.#links.set(peer, new RootLink<Seat>(root));
      else link.host = root;
    }
    for (const peer of [...this.#links.keys()]) if (!others.has(peer)) this.#links.delete(peer);
    this.#ring = new RootRing([...others.keys(), ...(this.#isRoot ? [this.#self.peer] : [])]);
    this.#sources = new SharedSources();
    for (const seats of this.#seats.values()) {
      for (const seat of seats.values()) {
        seat.order = this.#ring.order(seat.digest, seat.stripe);
        const link = seat.link;
        const stays = link !== undefined && this.#links.get(link.host.peer) === link;
        if (!stays) this.#assign(seat, nowMs);
      }
    }
    return this.#pump(nowMs);
  }

  /**
   * The host wants these blobs: it joins the trees of their stripes, with one JOIN per owner and
   * call. For a blob wanted already, `held` is replaced, and only new stripes are joined.
   */
  want(blobs: readonly Wanted[], nowMs: number): readonly MembershipEffect[] {
    for (const wanted of blobs) {
      const { digest, sizeBytes } = wanted.blob;
      const seats = this.#seats.get(digest) ?? new SmallMap<number, Seat>();
      this.#seats.set(digest, seats);
      for (const seat of seats.values()) seat.wanted = wanted;
      for (const stripe of wanted.stripes ?? Array(stripeCount(sizeBytes)).keys()) {
        if (seats.has(stripe)) continue;
        const seat = new Seat(digest, stripe, wanted);
        seat.order = this.#ring.order(digest, stripe);
        this.#assign(seat, nowMs);
        seats.set(stripe, seat);
      }
    }
    return this.#pump(nowMs);
  }

  unwant(digest: Digest, nowMs: number): readonly MembershipEffect[] {
    const seats = this.#seats.get(digest);
    this.#seats.delete(digest);
    const left = new Set<Link>();
    for (const seat of seats?.values() ?? []) {
      const link = seat.link;
      if (link !== undefined && !link.waiting.has(seat)) left.add(link);
      if (seat.left !== undefined) left.add(seat.left);
      this.#unlink(seat);
    }
    for (const link of left) this.#leave(link, digest);
    return this.#pump(nowMs);
  }

  joinReply(ticket: number, reply: JoinReply, nowMs: number): readonly MembershipEffect[] {
    const pending = this.#settle(ticket, 'join');
    if (pending === undefined) return [];
    const { link, seats } = pending;
    this.#answered(link, nowMs);
    const places = new Map(reply.places.map((place) => [`${place.digest}/${place.stripe}`, place]));
    for (const seat of seats) {
      if (!link.asked.delete(seat)) continue;
      const place = places.get(`${seat.digest}/${seat.stripe}`);
      if (place === undefined || !this.#take(seat, place, link, nowMs)) {
        seat.drop();
        this.#refuse(seat, link, { blobCount: 1, nowMs });
        continue;
      }
      link.seated.add(seat);
      seat.owned = false;
      this.#partFromLeft(seat);
    }
    if (link.seated.size > 0) this.#reportBy(link, nowMs + this.#interval());
    return this.#pump(nowMs);
  }

  joinFailed(ticket: number, nowMs: number, failure: CallFailure): readonly MembershipEffect[] {
    const pending = this.#settle(ticket, 'join');
    if (pending === undefined) return [];
    const { link, seats } = pending;
    const blobCount = new Set(seats.map(({ digest }) => digest)).size;
    for (const seat of seats) {
      if (!link.asked.delete(seat)) continue;
      if (failure === 'refused') this.#refuse(seat, link, { blobCount, nowMs });
      else link.waiting.add(seat);
    }
    if (failure === 'refused') this.#answered(link, nowMs);
    else this.#failed(link, nowMs, failure);
    return this.#pump(nowMs);
  }

  reportReply(ticket: number, reply: ReportReply, nowMs: number): readonly MembershipEffect[] {
    const pending = this.#settle(ticket, 'report');
    if (pending === undefined) return [];
    const { link, seats } = pending;
    this.#answered(link, nowMs);
    for (const place of reply.places) {
      const seat = this.#seats.get(place.digest)?.get(place.stripe);
      if (seat !== undefined && link.seated.has(seat)) this.#take(seat, place, link, nowMs);
    }
    const unknown = new Set(reply.unknown);
    for (const seat of seats) {
      if (!unknown.has(seat.digest) || !link.seated.delete(seat)) continue;
      // The owner may place hosts below this one without knowing its parent: the parent goes first.
      seat.drop();
      link.waiting.add(seat);
    }
    return this.#pump(nowMs);
  }

  reportFailed(ticket: number, nowMs: number, failure: CallFailure): readonly MembershipEffect[] {
    const pending = this.#settle(ticket, 'report');
    if (pending === undefined) return [];
    if (failure === 'refused') this.#answered(pending.link, nowMs);
    else this.#failed(pending.link, nowMs, failure);
    return this.#pump(nowMs);
  }

  /** A LEAVE was answered, or failed: either way the owner hears no more of it. */
  leaveDone(ticket: number, nowMs: number): readonly MembershipEffect[] {
    const pending = this.#pending.get(ticket);
    if (pending?.kind !== 'leave') return [];
    this.#pending.delete(ticket);
    for (const digest of pending.digests) pending.link.leaving.delete(digest);
    return this.#pump(nowMs);
  }

  /** The peer does not answer, or the connection to it broke. */
  peerLost(peer: PeerId, nowMs: number): readonly MembershipEffect[] {
    this.#markLost(peer, nowMs);
    const root = this.#links.get(peer);
    if (root !== undefined) {
      root.suspect();
      if (root.seated.size > 0) this.#reportBy(root, nowMs);
    }
    for (const link of this.#links.values()) {
      if (link === root || link.lost.has(peer)) continue;
      for (const seat of link.seated) {
        if (seat.place?.path.some((ancestor) => ancestor.peer === peer) !== true) continue;
        link.lost.add(peer);
        this.#reportBy(link, nowMs + LOST_DELAY_MS * this.#random.float());
        break;
      }
    }
    return this.#pump(nowMs);
  }

  /** The peer shows no sign of life, though something waits for it. */
  peerSilent(peer: PeerId, nowMs: number): readonly MembershipEffect[] {
    const root = this.#links.get(peer);
    if (root !== undefined) this.#failed(root, nowMs, 'silent');
    return this.#pump(nowMs);
  }

  tick(nowMs: number): readonly MembershipEffect[] {
    for (const [peer, untilMs] of this.#lost) {
      if (untilMs > nowMs) break;
      this.#lost.delete(peer);
      for (const link of this.#links.values()) link.lost.delete(peer);
      this.#sources = new SharedSources();
    }
    for (const seat of [...this.#unsettled]) this.#assign(seat, nowMs);
    return this.#pump(nowMs);
  }

  /** When `tick()` is due next, in milliseconds of the same clock; undefined: nothing is due. */
  get nextWakeMs(): number | undefined {
    const [lost] = this.#lost;
    let wake = lost?.[1] ?? Number.POSITIVE_INFINITY;
    for (const link of this.#links.values()) {
      if (link.reportTicket === undefined && link.seated.size > 0) {
        wake = Math.min(wake, link.reportDueMs);
      }
      const joins = [...link.waiting].some(({ digest }) => !link.leaving.has(digest));
      if (link.joinsUnderWay < JOINS_UNDER_WAY_MAX && joins) {
        wake = Math.min(wake, link.joinNotBeforeMs);
      }
      for (const dueMs of link.refused.values()) wake = Math.min(wake, dueMs);
      if (link.silent) {
        if (link.reportTicket === undefined) wake = Math.min(wake, link.downUntilMs);
      } else if (this.#unsettled.size > 0 && link.isDown(this.#nowMs)) {
        wake = Math.min(wake, link.downUntilMs);
      }
    }
    return wake === Number.POSITIVE_INFINITY ? undefined : wake;
  }

  /** Peers to ask for blocks of the stripe, best first; empty for its owner, or without a root. */
  sources(digest: Digest, stripe: number): readonly Source[] {
    const seat = this.#seats.get(digest)?.get(stripe);
    if (seat === undefined || seat.owned) return [];
    if (seat.sources?.shared !== this.#sources) {
      const list = rankSources(seat, {
        roots: this.#links,
        self: this.#self.peer,
        isLost: (peer) => this.#lost.has(peer) || this.#links.get(peer)?.silent === true,
        sourceOf: (host, role) => this.#sources.of(host, role),
      });
      seat.sources = { shared: this.#sources, list };
    }
    return seat.sources.list;
  }

  /** Whether this root is the stripe's owner as far as it knows; also for blobs not wanted here. */
  isOwner(digest: Digest, stripe: number): boolean {
    const seat = this.#seats.get(digest)?.get(stripe);
    return seat?.owned ?? this.#ring.order(digest, stripe)[0] === this.#self.peer;
  }

  /** The place held in the tree of the stripe. */
  placeOf(digest: Digest, stripe: number): Place | undefined {
    return this.#seats.get(digest)?.get(stripe)?.place;
  }

  /** Whether the owner of the stripe last gave no place. */
  isRefused(digest: Digest, stripe: number): boolean {
    return (this.#seats.get(digest)?.get(stripe)?.refusals ?? 0) > 0;
  }

  /** Hosts that were near this one in the tree of the stripe, at most `KIN_MAX`. */
  kinOf(digest: Digest, stripe: number): readonly HostAddress[] {
    return this.#seats.get(digest)?.get(stripe)?.kin ?? [];
  }

  #interval(): number {
    return jitter(this.#random, this.#reportIntervalMs, 0.1);
  }

  #reportBy(link: Link, dueMs: number): void {
    link.reportDueMs = Math.min(link.reportDueMs, dueMs);
  }

  #markLost(peer: PeerId, nowMs: number): void {
    this.#lost.set(peer, nowMs + LOST_COOL_DOWN_MS);
    this.#sources = new SharedSources();
  }

  #take(seat: Seat, place: Place, link: Link, nowMs: number): boolean {
    const before = seat.place?.path[0]?.peer;
    const refusal = seat.take(place, link.host.peer, this.#self.peer);
    // A stale place is no loss: this host holds a newer one.
    if (refusal !== undefined) return refusal === 'stale';
    if (before !== undefined && before !== place.path[0]?.peer) {
      this.#reportBy(link, nowMs + jitter(this.#random, ACK_DELAY_MS / 2, 1));
    }
    return true;
  }

  /** Sends the seat to its first live root; to none when that is this host, or all are down. */
  #assign(seat: Seat, nowMs: number): void {
    const target = this.#rightful(seat, nowMs);
    if (target !== undefined && target === seat.link) return;
    if (seat.link?.seated.has(seat) === true) seat.left = seat.link;
    this.#unlink(seat);
    if (target === 'self') {
      seat.owned = true;
      seat.drop();
      this.#partFromLeft(seat);
      if (seat.order[0] !== this.#self.peer) this.#unsettled.add(seat);
    } else if (target === undefined) {
      this.#unsettled.add(seat);
    } else {
      // An owner stays one until the root that it steps back for has taken it in.
      seat.link = target;
      target.waiting.add(seat);
    }
  }

  #rightful(seat: Seat, nowMs: number): Link | 'self' | undefined {
    for (const peer of seat.order) {
      if (peer === this.#self.peer) return 'self';
      const link = this.#links.get(peer);
      if (link !== undefined && !link.isDown(nowMs)) return link;
    }
    return undefined;
  }

  #unlink(seat: Seat): void {
    const link = seat.link;
    link?.waiting.delete(seat);
    link?.refused.delete(seat);
    link?.asked.delete(seat);
    link?.seated.delete(seat);
    seat.link = undefined;
    this.#unsettled.delete(seat);
  }

  /** Tells the root of the seat's last join, once no stripe of the blob is joined there. */
  #partFromLeft(seat: Seat): void {
    const left = seat.left;
    seat.left = undefined;
    if (left === undefined || left === seat.link) return;
    const seats = [...(this.#seats.get(seat.digest)?.values() ?? [])];
    if (!seats.some((other) => other.link === left || other.left === left)) {
      this.#leave(left, seat.digest);
    }
  }

  #leave(link: Link, digest: Digest): void {
    if (this.#links.get(link.host.peer) !== link) return;
    const ticket = this.#nextTicket();
    const digests = [digest];
    link.leaving.add(digest);
    this.#pending.set(ticket, { kind: 'leave', link, digests });
    this.#effects.push({ kind: 'leave', owner: link.host, request: { digests }, ticket });
  }

  #settle(
    ticket: number,
    kind: 'join' | 'report',
  ): { link: Link; seats: readonly Seat[] } | undefined {
    const pending = this.#pending.get(ticket);
    if (pending?.kind !== kind) return undefined;
    this.#pending.delete(ticket);
    if (kind === 'join') pending.link.joinsUnderWay--;
    else pending.link.reportTicket = undefined;
    return pending;
  }

  /** The root said something: it is up. */
  #answered(link: Link, nowMs: number): void {
    if (!link.succeed()) return;
    this.#lost.delete(link.host.peer);
    this.#sources = new SharedSources();
    for (const seat of [...this.#unsettled]) this.#assign(seat, nowMs);
  }

  #failed(link: Link, nowMs: number, failure: 'silent' | 'failed'): void {
    // Without another owner, a root that stands still for a moment is better asked once more.
    const silent = failure === 'silent' && this.#hasOther(link, nowMs);
    const down = link.fail(nowMs, this.#random, silent);
    if (!down || this.#links.get(link.host.peer) !== link) return;
    this.#markLost(link.host.peer, nowMs);
    const seats = [...link.waiting, ...link.refused.keys(), ...link.asked, ...link.seated];
    for (const seat of seats) this.#assign(seat, nowMs);
  }

  /** Whether this host or another root may own what the root does. */
  #hasOther(link: Link, nowMs: number): boolean {
    if (this.#isRoot) return true;
    for (const other of this.#links.values()) {
      if (other !== link && !other.isDown(nowMs)) return true;
    }
    return false;
  }

  /** A JOIN is refused: the seat goes into one of half the blobs, or, alone, waits longer. */
  #refuse(seat: Seat, link: Link, refusal: { blobCount: number; nowMs: number }): void {
    const { blobCount, nowMs } = refusal;
    seat.blobsMax = Math.max(1, Math.floor(blobCount / 2));
    const waitMs =
      blobCount > 1 ? REFUSED_MS : backoffMs(++seat.refusals, RETRY_MS, REFUSED_MS_MAX);
    link.refused.set(seat, nowMs + jitter(this.#random, waitMs, 0.5));
  }

  /** Makes the requests that are due. */
  #pump(nowMs: number): readonly MembershipEffect[] {
    this.#nowMs = nowMs;
    for (const link of this.#links.values()) {
      if (link.reportTicket !== undefined) continue;
      if (link.silent) {
        if (nowMs >= link.downUntilMs) this.#probe(link);
      } else if (nowMs >= link.reportDueMs) this.#report(link, nowMs);
    }
    for (const link of this.#links.values()) {
      for (const [seat, dueMs] of link.refused) {
        if (nowMs < dueMs) continue;
        link.refused.delete(seat);
        link.waiting.add(seat);
      }
      while (link.joinsUnderWay < JOINS_UNDER_WAY_MAX && nowMs >= link.joinNotBeforeMs) {
        if (!this.#join(link)) break;
      }
    }
    const effects = this.#effects;
    this.#effects = [];
    return effects;
  }

  /** Sends a JOIN for what waits; whether there was anything. */
  #join(link: Link): boolean {
    const byBlob = new Map<Digest, { wanted: Seat['wanted']; stripes: number[] }>();
    const seats: Seat[] = [];
    let blobsMax = BLOBS_PER_JOIN_MAX;
    for (const seat of link.waiting) {
      if (link.leaving.has(seat.digest)) continue;
      const blob = byBlob.get(seat.digest);
      const fits = byBlob.size < Math.min(blobsMax, seat.blobsMax);
      if (blob !== undefined) blob.stripes.push(seat.stripe);
      else if (fits) byBlob.set(seat.digest, { wanted: seat.wanted, stripes: [seat.stripe] });
      else continue;
      blobsMax = Math.min(blobsMax, seat.blobsMax);
      seats.push(seat);
    }
    if (seats.length === 0) return false;
    for (const seat of seats) {
      link.waiting.delete(seat);
      link.asked.add(seat);
    }
    const blobs: WantedBlob[] = [...byBlob.values()].map(({ wanted, stripes }) => ({
      blob: wanted.blob,
      origin: wanted.origin,
      stripes,
      held: wanted.held(),
    }));
    const ticket = this.#nextTicket();
    link.joinsUnderWay++;
    this.#pending.set(ticket, { kind: 'join', link, seats });
    const request: JoinRequest = { host: this.#self, blobs };
    this.#effects.push({ kind: 'join', owner: link.host, request, ticket });
    return true;
  }

  /** Asks a silent root for a sign of life by an empty report. */
  #probe(link: Link): void {
    link.reportDueMs = Number.POSITIVE_INFINITY;
    const ticket = this.#nextTicket();
    link.reportTicket = ticket;
    this.#pending.set(ticket, { kind: 'report', link, seats: [] });
    const request = { lost: [], held: [] };
    this.#effects.push({ kind: 'report', owner: link.host, request, ticket });
  }

  #report(link: Link, nowMs: number): void {
    link.reportDueMs = Number.POSITIVE_INFINITY;
    for (const seat of [...link.seated]) this.#assign(seat, nowMs);
    if (link.seated.size === 0) return;
    const seats = [...link.seated].slice(0, PLACES_PER_REPORT_MAX);
    const held = seats.map(({ digest, stripe, place }) => ({
      digest,
      stripe,
      epoch: place?.epoch ?? 0,
    }));
    const lost = [...link.lost]
      .filter((peer) => this.#lost.has(peer))
      .slice(0, LOST_PER_REPORT_MAX);
    link.lost.clear();
    link.reportDueMs = nowMs + this.#interval();
    const ticket = this.#nextTicket();
    link.reportTicket = ticket;
    this.#pending.set(ticket, { kind: 'report', link, seats });
    this.#effects.push({ kind: 'report', owner: link.host, request: { lost, held }, ticket });
  }
}
