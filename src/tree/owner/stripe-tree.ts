import type { Digest } from '../../image/digest.ts';
import { assert, defined } from '../../util/assert.ts';
import { SmallMap } from '../../util/small-map.ts';
import { depthBound, headDepthBound } from './depth.ts';
import {
  attachGuest,
  attachKin,
  detach,
  inherit,
  makeRoom,
  scatter,
  setLimit,
  substitute,
  successorOf,
} from './links.ts';
import {
  deepest,
  depthInZone,
  descend,
  descendZone,
  freeSlots,
  Member,
  nearestWeak,
  NONE,
  refresh,
  refreshZone,
  Zone,
  type HostState,
  type SlotKind,
} from './nodes.ts';

/** Shape of the tree of one stripe, and its owner. */
export interface StripeTreeInit {
  readonly digest: Digest;
  readonly stripe: number;
  /** Bytes that the tree carries to each member. */
  readonly sizeBytes: number;
  /** Hosts of this colour are inner members. */
  readonly colour: number;
  /** Number of colours. */
  readonly colours: number;
  readonly owner: HostState;
  readonly ownerZone: string;
  readonly fanOut: number;
  readonly rootFanOut: number;
}

/** Bars placements from the member and everything below it, or admits them again. */
function block(member: Member, on: boolean): void {
  member.blocked = on;
  member.zone.hasBlocked = on;
  refresh(member);
  refreshZone(member.zone);
}

/**
 * The tree of one stripe: which host hangs under which.
 *
 *     owner (home zone)
 *       |-- kin: hosts of the owner's zone, a tree
 *       `-- guests: heads of other zones. Each has a tree of its own zone below it,
 *                   whose hosts take further heads as guests
 *
 * Hosts of the tree's colour are its inner members. They have the children, `fanOut` of their own
 * colour and one of each other, so a host has children in some trees and none in others. Every
 * other host keeps `fanOut` slots in reserve, for when the slots of inner members are too deep or
 * none is free. This keeps the bound on the depth, whatever the mixture of colours.
 *
 * In a zone a newcomer takes the shallowest free slot of its kind; a new zone takes the nearest
 * place for a guest. A zone keeps one slot of each host that has guests for itself, so it can
 * always grow. It takes as many guests as a host takes children, near its head. A child with room
 * or the deepest leaf replaces a departing host, so nobody sinks. Members that are too deep after
 * many departures move up one by one. Nothing else moves.
 *
 * No operation visits more than the way to the root and back, times the fan-out, per member moved.
 */
export class StripeTree {
  readonly digest: Digest;
  readonly stripe: number;
  readonly sizeBytes: number;
  readonly colour: number;
  readonly root: Member;
  readonly #outerMax: number;
  readonly #fanOut: number;
  readonly #home: Zone;
  readonly #zones = new SmallMap<string, Zone>();
  /** Hosts without a slot in their zone, oldest first. */
  readonly #strays = new Map<string, Set<Zone>>();
  /** Zones that hang from the owner beyond its limit, oldest first. */
  readonly #forced = new Set<Zone>();
  #strayCount = 0;
  #memberCount = 0;

  constructor(init: StripeTreeInit) {
    this.digest = init.digest;
    this.stripe = init.stripe;
    this.sizeBytes = init.sizeBytes;
    this.colour = init.colour;
    this.#outerMax = init.colours - 1;
    this.#fanOut = init.fanOut;
    this.root = new Member(init.owner, {
      limit: init.rootFanOut,
      isInner: true,
      outerMax: this.#outerMax,
      nowMs: 0,
      zone: init.ownerZone,
    });
    this.#home = this.root.zone;
    this.#home.home = true;
    this.#home.quota = Math.max(init.fanOut, init.rootFanOut);
    this.#zones.set(init.ownerZone, this.#home);
    refresh(this.root);
  }

  /** Without the owner. */
  get memberCount(): number {
    return this.#memberCount;
  }

  /** Zones that hang from a slot, strays included, without the owner's zone. */
  get zoneCount(): number {
    return this.#zones.size - 1 + this.#strayCount - this.#forced.size;
  }

  /**
   * Maximum number of children that the host may have: as many as it is willing to serve, up to the
   * fan-out; none while it is suspected.
   */
  #limitOf(host: HostState, isInner: boolean): number {
    const most = isInner ? this.#fanOut + this.#outerMax : this.#fanOut;
    return host.suspected ? 0 : Math.min(host.capacity, most);
  }

  /** `liked` becomes the parent if it has one of the nearest slots. */
  add(host: HostState, place: { zone: string; liked?: Member | undefined }, nowMs: number): Member {
    const zone = this.#zones.get(place.zone);
    const isInner = host.colour === this.colour;
    const member = new Member(host, {
      limit: this.#limitOf(host, isInner),
      isInner,
      outerMax: this.#outerMax,
      nowMs,
      zone: zone ?? place.zone,
    });
    this.#memberCount++;
    if (zone === undefined) this.#open(member.zone);
    else this.#enter(zone, member, place.liked);
    this.#relieve(nowMs);
    return member;
  }

  remove(member: Member, nowMs: number): void {
    member.gone = true;
    this.#memberCount--;
    this.#vacate(member);
    this.#relieve(nowMs);
  }

  /**
   * Call it after a change of the host's capacity or standing. A member with too many children
   * gives them to another and becomes a leaf.
   */
  relimit(member: Member, nowMs: number): void {
    const limit = this.#limitOf(member.host, member.isInner);
    if (member.zone.stray || member.limit === limit) return;
    if (member.kin.length + member.guests.length <= limit) {
      setLimit(member, limit);
    } else {
      const zone = member.zone;
      if (zone.size === 1 && !zone.home) {
        this.#handOver(member, limit);
      } else {
        this.#vacate(member);
        setLimit(member, limit);
        this.#enter(zone, member);
      }
    }
    this.#relieve(nowMs);
  }

  /**
   * Moves the member, with everything below it, away from `lost`. Where no other slot is free, it
   * hangs from the owner.
   */
  flee(member: Member, lost: Member, nowMs: number, holdMs: number): void {
    const wholeZone = member.zone.head === member;
    if (wholeZone) {
      detach(member);
      this.#forced.delete(member.zone);
      block(lost, true);
      this.#hang(member.zone);
      block(lost, false);
      if (member.zone.forced) member.zone.holdUntilMs = nowMs + holdMs;
    } else {
      this.#fleeInZone(member, lost, nowMs + holdMs);
    }
    this.#settle(member.zone);
    this.#relieve(nowMs);
  }

  #fleeInZone(member: Member, lost: Member, holdUntilMs: number): void {
    const zone = member.zone;
    detach(member);
    block(lost, true);
    const found = zone.head.near < NONE;
    if (found) attachKin(this.#slotFor(zone, member), member);
    block(lost, false);
    if (found) return;
    // Only the member's own kin or the lost host have slots: the kin stays with the zone, and the
    // member goes astray alone.
    const parts = scatter(member);
    zone.size -= parts.members.length;
    for (const part of parts.members) if (part !== member) this.#enter(zone, part);
    for (const kid of parts.zones) this.#hangNear(zone, kid);
    this.#stray(zone.name, member);
    member.zone.holdUntilMs = holdUntilMs;
  }

  /** Hangs a zone of one host: a new zone, or a returning stray. */
  #open(zone: Zone): void {
    zone.stray = false;
    zone.quota = this.#fanOut;
    zone.size = 1;
    this.#zones.set(zone.name, zone);
    refreshZone(zone);
    this.#hang(zone);
  }

  /** Places a member without parent and children in its zone. */
  #enter(zone: Zone, member: Member, liked?: Member): void {
    const head = zone.head;
    member.zone = zone;
    zone.size++;
    if (this.#supplants(zone, member)) {
      const weak = nearestWeak(head);
      substitute(weak, member);
      attachKin(member, weak);
    } else if (head.near < NONE) {
      attachKin(this.#slotFor(zone, member, liked), member);
    } else if (zone.kids.length > 0) {
      this.#splice(zone, member);
    } else {
      zone.size--;
      this.#stray(zone.name, member);
      return;
    }
    this.#settle(zone);
  }

  /**
   * The host of the zone that takes a member with everything below it, given that the zone has a
   * slot. It is the nearest inner host with a slot of the member's kind, unless that slot is too
   * deep. Among equals it is `liked`, then the least loaded.
   */
  #slotFor(zone: Zone, member: Member, liked?: Member): Member {
    const { head } = zone;
    const hopsMax = depthBound(zone.size, this.#fanOut) - 1 - member.height;
    const kinds: readonly SlotKind[] = member.isInner ? ['inner'] : ['outer', 'inner'];
    const kind = kinds.find((each) => head.slots[each].hops <= hopsMax) ?? 'any';
    const isAsNear =
      liked?.zone === zone &&
      liked.slots[kind].hops === 0 &&
      depthInZone(liked) === head.slots[kind].hops;
    return isAsNear ? liked : descend(head, kind);
  }

  /**
   * Whether the newcomer takes the place of a host without capacity: no slot is free, or only one
   * that is too deep.
   */
  #supplants(zone: Zone, member: Member): boolean {
    const { near, weak } = zone.head;
    if (weak === NONE || member.limit < 1) return false;
    if (near === NONE) return true;
    const deepestGood = depthBound(zone.size, this.#fanOut) - 1;
    return member.limit >= 2 && weak <= near && near + 1 > deepestGood;
  }

  /** Takes the slot of a guest; the guest moves under the newcomer. */
  #splice(zone: Zone, member: Member): void {
    const guest = defined(zone.kids.at(-1), 'a zone without guests has none to displace');
    const parent = defined(guest.head.parent, 'a guest has a parent');
    detach(guest.head);
    attachKin(parent, member);
    if (freeSlots(member) > 0) attachGuest(member, guest);
    else this.#hangNear(zone, guest);
  }

  #stray(name: string, member: Member): void {
    const zone = new Zone(name, member);
    zone.stray = true;
    zone.size = 1;
    member.zone = zone;
    setLimit(member, 0);
    this.#strays.set(name, (this.#strays.get(name) ?? new Set<Zone>()).add(zone));
    this.#strayCount++;
    this.#hang(zone);
  }

  #dropStray(zone: Zone): void {
    const all = this.#strays.get(zone.name);
    assert(all?.delete(zone) === true, 'a stray is not listed');
    if (all.size === 0) this.#strays.delete(zone.name);
    this.#strayCount--;
    this.#forced.delete(zone);
  }

  /**
   * Places a detached zone: at the nearest place, else in place of a zone without capacity, else
   * under the owner.
   */
  #hang(zone: Zone): void {
    const home = this.#home;
    if (home.near < NONE) {
      this.#host(descendZone(home, 'near'), zone);
    } else if (home.weak < NONE && zone.port !== undefined) {
      const weak = descendZone(home, 'weak');
      const parent = defined(weak.head.parent, 'a zone that was found hangs from a host');
      detach(weak.head);
      attachGuest(parent, zone);
      this.#hang(weak);
    } else if (zone.port !== undefined && this.#evictFor(zone)) {
      return;
    } else {
      zone.forced = true;
      zone.head.parent = this.root;
      this.root.host.load++;
      this.#forced.add(zone);
      return;
    }
    this.#settleZones();
  }

  /**
   * Gives a zone the slot of a host without capacity in the owner's zone; that host finds a place
   * below.
   */
  #evictFor(zone: Zone): boolean {
    const root = this.root;
    const weak = root.kin.find((kid) => kid.limit === 0);
    if (weak === undefined || root.guests.length >= root.limit - 1) return false;
    detach(weak);
    this.#home.size--;
    attachGuest(root, zone);
    this.#stray(this.#home.name, weak);
    return true;
  }

  #host(zone: Zone, guest: Zone): void {
    const port = defined(zone.port, 'a guest was given to a zone without a port');
    if (freeSlots(port) === 0) makeRoom(port);
    attachGuest(port, guest);
  }

  #hangNear(zone: Zone, guest: Zone): void {
    if (zone.port !== undefined) this.#host(zone, guest);
    else this.#hang(guest);
  }

  /** Takes a member out of the tree; a successor takes its place and its children. */
  #vacate(member: Member): void {
    const zone = member.zone;
    if (zone.stray) {
      detach(member);
      this.#dropStray(zone);
      return;
    }
    zone.size--;
    if (zone.head === member && member.kin.length === 0) {
      this.#close(zone);
      return;
    }
    const successor = successorOf(member);
    if (successor === undefined) {
      const guests = member.guests.map((guest) => guest.zone);
      for (const guest of guests) detach(guest.head);
      detach(member);
      for (const guest of guests) this.#hangNear(zone, guest);
    } else if (member.kin.length === 0 && member.guests.length === 0) {
      detach(member);
    } else {
      detach(successor);
      substitute(member, successor);
      const left = inherit(member, successor);
      for (const kin of left.kin) this.#enterWhole(zone, kin);
      for (const kid of left.zones) this.#hangNear(zone, kid);
    }
    this.#settle(zone);
  }

  /** Places a member with its kin. */
  #enterWhole(zone: Zone, top: Member): void {
    if (zone.head.near < NONE) {
      attachKin(this.#slotFor(zone, top), top);
      return;
    }
    const parts = scatter(top);
    zone.size -= parts.members.length;
    for (const member of parts.members) this.#enter(zone, member);
    for (const kid of parts.zones) this.#hangNear(zone, kid);
  }

  /**
   * Removes a zone with its last member: a guest with room takes its place and the other guests.
   */
  #close(zone: Zone): void {
    const head = zone.head;
    const parent = zone.forced ? undefined : head.parent;
    const guests = head.guests.map((guest) => guest.zone);
    for (const guest of guests) detach(guest.head);
    detach(head);
    this.#forced.delete(zone);
    this.#zones.delete(zone.name);
    const heir = guests.find((guest) => guest.port !== undefined) ?? guests[0];
    if (heir !== undefined) {
      if (parent !== undefined && freeSlots(parent) > 0) attachGuest(parent, heir);
      else this.#hang(heir);
      for (const guest of guests) if (guest !== heir) this.#hangNear(heir, guest);
    }
    this.#reopen(zone.name);
    this.#settleZones();
  }

  /** Makes the only host of a zone give up its guests and keep its place. */
  #handOver(member: Member, limit: number): void {
    const guests = member.guests.map((guest) => guest.zone);
    for (const guest of guests) detach(guest.head);
    setLimit(member, limit);
    for (const guest of guests) this.#hang(guest);
  }

  /** Makes a stray the head of a zone that has lost all its members. */
  #reopen(name: string): void {
    const stray = this.#strays.get(name)?.values().next().value;
    if (stray === undefined) return;
    detach(stray.head);
    this.#dropStray(stray);
    setLimit(stray.head, this.#limitOf(stray.head.host, stray.head.isInner));
    this.#open(stray);
  }

  /** Moves up members that are too deep in a zone, one leaf at a time. */
  #settle(zone: Zone): void {
    const head = zone.head;
    for (let move = 0; move < zone.size; move++) {
      if (head !== zone.head || head.height <= depthBound(zone.size, this.#fanOut)) return;
      if (head.near + 1 < head.height) {
        const leaf = deepest(head, 'height');
        detach(leaf);
        attachKin(descend(head), leaf);
      } else if (head.weak + 1 < head.spare && nearestWeak(head) !== head) {
        const weak = nearestWeak(head);
        const strong = deepest(head, 'spare');
        detach(strong);
        substitute(weak, strong);
        attachKin(strong, weak);
      } else return;
    }
  }

  /** Moves up the heads that are too deep, with everything below them. */
  #settleZones(): void {
    for (let move = 0; move < this.zoneCount; move++) {
      const reach = this.#home.reach;
      if (reach <= 2 || reach <= headDepthBound(this.zoneCount, this.#fanOut)) return;
      const low = descendZone(this.#home, 'reach');
      const parent = defined(low.head.parent, 'a zone that was found hangs from a host');
      detach(low.head);
      if (this.#home.near >= reach) {
        attachGuest(parent, low);
        return;
      }
      this.#host(descendZone(this.#home, 'near'), low);
    }
  }

  /**
   * Returns strays to their zone and takes forced zones off the owner, as far as slots are free.
   */
  #relieve(nowMs: number): void {
    for (const [name, strays] of this.#strays) {
      const zone = this.#zones.get(name);
      for (const stray of strays) {
        if (zone === undefined || zone.head.near === NONE || stray.holdUntilMs > nowMs) break;
        detach(stray.head);
        this.#dropStray(stray);
        setLimit(stray.head, this.#limitOf(stray.head.host, stray.head.isInner));
        this.#enter(zone, stray.head);
      }
    }
    for (const zone of this.#forced) {
      if (this.#home.near === NONE || zone.holdUntilMs > nowMs) break;
      detach(zone.head);
      this.#forced.delete(zone);
      this.#hang(zone);
    }
    this.#settleZones();
  }
}
