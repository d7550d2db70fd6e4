import type { HostAddress } from '../messages.ts';

/**
 * Stands for "none below here" where a distance in hops is asked for. Small, so that sums stay
 * small integers.
 */
export const NONE = 1 << 20;

/**
 * Slots for children. `any`: all of them; `inner`: slots of inner members; `outer`: slots of inner
 * members except those that they keep for inner children.
 */
const SLOT_KINDS = ['any', 'inner', 'outer'] as const;
/** A kind of slot for children. */
export type SlotKind = (typeof SLOT_KINDS)[number];

/** Where a kin subtree has free slots of one kind. */
interface Slots {
  /** Hops to the nearest free slot. */
  hops: number;
  /** The member with the nearest free slot; among equals the one on the least loaded host. */
  pick: Member;
}

/**
 * Maximum number of saturated hosts that a zone passes on its way to a place for a foreign head.
 * Hosts of capacity 1 make the way long.
 */
const TRUNK_MAX = 16;

/** A host as a tree sees it; one object per host, shared by its members in all trees. */
export interface HostState {
  address: HostAddress;
  /** Children that the host is willing to serve in one tree. */
  capacity: number;
  /** Children that the host serves, over all trees. */
  load: number;
  /** Sequence number of the host's first JOIN: the last tie-break. */
  readonly order: number;
  /** The host is an inner member of the trees of this colour. */
  colour: number;
  suspected: boolean;
}

/**
 * The chain of hosts from one up to the owner, as the issuer handed it out. All hosts below share
 * it.
 */
export interface PathCell {
  readonly member: Member;
  readonly address: HostAddress;
  readonly up: PathCell | undefined;
}

/**
 * A host in one tree. `kin` are its children of its own zone, `guests` its children that are heads
 * of other zones.
 *
 * Each member sums up its kin subtree (`slots` to `weak`). So the way down to a free slot, to the
 * deepest host and the like is one comparison per level, and a subtree moves without a visit to its
 * members.
 */
export class Member {
  readonly host: HostState;
  zone: Zone;
  parent: Member | undefined;
  readonly kin: Member[] = [];
  readonly guests: Member[] = [];
  /**
   * Inner member: takes children first. Others take children only when no inner member has a slot
   * close enough.
   */
  readonly isInner: boolean;
  /** Maximum number of children that are not inner members, while other hosts have slots. */
  readonly outerMax: number;
  /** Maximum number of children that this member may have; 0 while it is suspected or astray. */
  limit: number;
  /** The current placement may not use this subtree. */
  blocked = false;
  gone = false;

  readonly slots: Readonly<Record<SlotKind, Slots>>;
  /** Hops to the deepest kin. */
  height = 0;
  /** Hops to the deepest childless host fit to have children; -1 when there is none. */
  spare: number;
  /** Hops to the nearest childless host without capacity. */
  weak: number;

  /** Path from here up; rebuilt on demand after a change above. */
  cell: PathCell | undefined;
  /**
   * The path that the host is known to hold (`acked`) and the path sent last (`issued`); equal once
   * the host has acknowledged the latter.
   */
  acked: PathCell | undefined;
  issued: PathCell | undefined;
  issuedEpoch = 0;
  /** The host never acknowledged a path sent before `issued`, and may still use it. */
  unsure = false;
  /** Clock time (ms) of the last JOIN or report that named this tree. */
  seenMs: number;
  /** Number of the last walk that visited this member. */
  mark = 0;

  /** With a name for `zone`, the member is the head of a new zone. */
  constructor(
    host: HostState,
    init: {
      limit: number;
      isInner: boolean;
      outerMax: number;
      nowMs: number;
      zone: Zone | string;
    },
  ) {
    const { limit } = init;
    this.host = host;
    this.limit = limit;
    this.isInner = init.isInner;
    this.outerMax = init.outerMax;
    this.seenMs = init.nowMs;
    const slots = (): Slots => ({ hops: NONE, pick: this });
    this.slots = { any: slots(), inner: slots(), outer: slots() };
    for (const kind of SLOT_KINDS) this.slots[kind].hops = hasSlot(this, kind) ? 0 : NONE;
    this.spare = limit >= 2 ? 0 : -1;
    this.weak = limit === 0 ? 0 : NONE;
    this.zone = typeof init.zone === 'string' ? new Zone(init.zone, this) : init.zone;
  }

  /** Hops to the nearest free slot of any kind in the kin subtree. */
  get near(): number {
    return this.slots.any.hops;
  }
}

/**
 * The members of one zone in one tree: a tree of kin under `head`. Zones form a tree of their own:
 * each hangs by its head from a host of another zone. A host that finds no slot in its zone forms a
 * zone by itself for a while (`stray`).
 */
export class Zone {
  readonly name: string;
  head: Member;
  /** Members, without the owner. */
  size = 0;
  /** Zones whose heads are guests here. */
  readonly kids: Zone[] = [];
  /** Zone that this zone hangs from. */
  up: Zone | undefined;
  /** Maximum number of guests at a time. */
  quota = 0;
  stray = false;
  /** The owner's zone; the owner is its head. */
  home = false;
  /**
   * Hangs from the owner beyond its limit, since no host has a free slot; neither `up` nor the
   * owner's guests list it.
   */
  forced = false;
  /** A member of the zone is blocked: guests at or below that member do not count. */
  hasBlocked = false;
  /** The tree does not move the zone back into its own zone, or off the owner, before this time. */
  holdUntilMs = 0;

  /** Host that takes the next guest. */
  port: Member | undefined;
  /** Hops from the head to the nearest place for a guest, here or in a zone below. */
  near = NONE;
  /** Hops from the head to the deepest head below. */
  reach = 0;
  /** Hops to the nearest zone below that can take no guest and has none. */
  weak = NONE;

  constructor(name: string, head: Member) {
    this.name = name;
    this.head = head;
  }
}

/** Children that the member may still take. */
export function freeSlots(member: Member): number {
  return Math.max(0, member.limit - member.kin.length - member.guests.length);
}

function hasSlot(member: Member, kind: SlotKind): boolean {
  if (member.blocked || freeSlots(member) === 0) return false;
  if (kind === 'any') return true;
  if (!member.isInner || kind === 'inner') return member.isInner;
  let outer = 0;
  for (const kid of member.kin) if (!kid.isInner) outer++;
  return outer < member.outerMax;
}

/** Whether `a` serves fewer children than `b`, or as many and joined earlier. */
function lighter(a: Member, b: Member): boolean {
  const [x, y] = [a.host, b.host];
  return x.load !== y.load ? x.load < y.load : x.order < y.order;
}

/** Hops from the member up to the head of its zone. */
export function depthInZone(member: Member): number {
  let depth = 0;
  for (let at = member; at !== at.zone.head && at.parent !== undefined; at = at.parent) depth++;
  return depth;
}

/** Whether a placement may use neither this host nor anything below it. */
function isOutOfBounds(member: Member): boolean {
  for (let at: Member | undefined = member; at !== undefined; at = at.parent) {
    if (at.blocked) return true;
    if (at === at.zone.head) return false;
  }
  return false;
}

/** Hops from the head of the zone to the head of a zone that hangs from it. */
function hopsTo(kid: Zone): number {
  return kid.head.parent === undefined ? 1 : depthInZone(kid.head.parent) + 1;
}

/** Recounts the free slots of the kind; returns whether anything changed. */
function countSlots(member: Member, kind: SlotKind): boolean {
  let hops = 0;
  let pick = member;
  // No slot below is nearer than the member's own.
  if (!hasSlot(member, kind)) {
    hops = NONE;
    for (const kid of member.blocked ? [] : member.kin) {
      const below = kid.slots[kind];
      if (below.hops + 1 > hops) continue;
      if (below.hops + 1 === hops && !lighter(below.pick, pick)) continue;
      hops = below.hops + 1;
      pick = below.pick;
    }
  }
  const slots = member.slots[kind];
  const same = slots.hops === hops && slots.pick === pick;
  slots.hops = hops;
  slots.pick = pick;
  return !same;
}

/** Sums the member up again; returns whether anything changed. */
function summarize(member: Member): boolean {
  const childless = member.kin.length === 0 && member.guests.length === 0;
  let height = 0;
  let spare = childless && member.limit >= 2 ? 0 : -1;
  let weak = childless && member.limit === 0 ? 0 : NONE;
  for (const kid of member.kin) {
    if (kid.height >= height) height = kid.height + 1;
    if (kid.spare >= 0 && kid.spare >= spare) spare = kid.spare + 1;
    if (kid.weak + 1 < weak) weak = kid.weak + 1;
  }
  if (member.blocked) {
    spare = -1;
    weak = NONE;
  }
  const same = height === member.height && spare === member.spare && weak === member.weak;
  member.height = height;
  member.spare = spare;
  member.weak = weak;
  const any = countSlots(member, 'any');
  const inner = countSlots(member, 'inner');
  const outer = countSlots(member, 'outer');
  return !same || any || inner || outer;
}

/** Whether a slot for one more guest is free, or can be freed by moving kin further down. */
function canRoom(member: Member): boolean {
  if (freeSlots(member) > 0) return true;
  return member.kin.length >= 2 && member.kin.some((kid) => kid.near < NONE);
}

/**
 * The host of the zone that takes the next guest: the head while it keeps one slot for its own
 * zone, then the only host under the head, and so on. A host that is alone in its zone gives all
 * its slots.
 */
function findPort(zone: Zone): Member | undefined {
  if (zone.kids.length >= zone.quota) return undefined;
  let at: Member | undefined = zone.head;
  for (let step = 0; step < TRUNK_MAX && at !== undefined; step++) {
    if (at.blocked) return undefined;
    const kept = at.kin.length > 0 || at !== zone.head ? 1 : 0;
    if (at.guests.length < at.limit - kept && canRoom(at)) return at;
    at = at.kin.length === 1 ? at.kin[0] : undefined;
  }
  return undefined;
}

function summarizeZone(zone: Zone): boolean {
  const port = findPort(zone);
  let near = port === undefined ? NONE : depthInZone(port) + 1;
  let reach = 0;
  let weak = port === undefined && zone.kids.length === 0 && !zone.home ? 0 : NONE;
  for (const kid of zone.kids) {
    const hops = hopsTo(kid);
    if (kid.reach + hops > reach) reach = kid.reach + hops;
    if (zone.hasBlocked && kid.head.parent !== undefined && isOutOfBounds(kid.head.parent))
      continue;
    if (kid.near + hops < near) near = kid.near + hops;
    if (kid.weak + hops < weak) weak = kid.weak + hops;
  }
  const same =
    port === zone.port && near === zone.near && reach === zone.reach && weak === zone.weak;
  zone.port = port;
  zone.near = near;
  zone.reach = reach;
  zone.weak = weak;
  return !same;
}

/**
 * Updates the sums above the member; call it after each change of the member's slots or children.
 */
export function refresh(member: Member): void {
  let at: Member | undefined = member;
  while (at !== undefined && summarize(at)) at = at === at.zone.head ? undefined : at.parent;
  refreshZone(member.zone);
}

/** Updates the sums of a zone and of the zones that it hangs from. */
export function refreshZone(zone: Zone): void {
  let at: Zone | undefined = zone;
  while (at !== undefined && summarizeZone(at)) at = at.up;
}

/**
 * The nearest free slot below a member that has one of the kind; among equals the one on the least
 * loaded host.
 */
export function descend(from: Member, kind: SlotKind = 'any'): Member {
  let at = from;
  while (at.slots[kind].hops > 0) {
    let best: Member | undefined;
    for (const kid of at.kin) {
      if (kid.slots[kind].hops !== at.slots[kind].hops - 1) continue;
      if (best === undefined || lighter(kid.slots[kind].pick, best.slots[kind].pick)) best = kid;
    }
    if (best === undefined) break;
    at = best;
  }
  return at;
}

/**
 * The deepest host below `from`; with `by` = `spare` the deepest childless host fit to have
 * children.
 */
export function deepest(from: Member, by: 'height' | 'spare'): Member {
  let at = from;
  for (;;) {
    const next = at.kin.find((kid) => at[by] > 0 && kid[by] === at[by] - 1);
    if (next === undefined) return at;
    at = next;
  }
}

/** The nearest childless host without capacity below a member that has one (`weak < NONE`). */
export function nearestWeak(from: Member): Member {
  let at = from;
  for (;;) {
    const next = at.weak > 0 ? at.kin.find((kid) => kid.weak === at.weak - 1) : undefined;
    if (next === undefined) return at;
    at = next;
  }
}

/** The zone below `from` at the distance that `near`, `reach` or `weak` gives. */
export function descendZone(from: Zone, by: 'near' | 'reach' | 'weak'): Zone {
  let at = from;
  for (;;) {
    if (by === 'near' && at.port !== undefined && at.near === depthInZone(at.port) + 1) return at;
    if (by !== 'near' && at[by] === 0) return at;
    const next = at.kids.find(
      (kid) =>
        hopsTo(kid) + kid[by] === at[by] &&
        !(at.hasBlocked && kid.head.parent !== undefined && isOutOfBounds(kid.head.parent)),
    );
    if (next === undefined) return at;
    at = next;
  }
}
