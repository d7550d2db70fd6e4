import { assert, defined } from '../../util/assert.ts';
import {
  deepest,
  descend,
  freeSlots,
  NONE,
  refresh,
  refreshZone,
  type Member,
  type Zone,
} from './nodes.ts';

/**
 * Moves of members that keep a tree a tree. Each leaves the sums of `nodes.ts` right; none of them
 * checks a bound.
 */

function drop<T>(list: T[], item: T): void {
  const at = list.indexOf(item);
  assert(at >= 0, 'a member is missing from the children of its parent');
  list.splice(at, 1);
}

function put<T>(list: T[], old: T, item: T): void {
  const at = list.indexOf(old);
  assert(at >= 0, 'a member is missing from the children of its parent');
  list[at] = item;
}

/** Hangs a detached member, with everything below it, under a host of its zone. */
export function attachKin(parent: Member, member: Member): void {
  assert(member.parent === undefined, 'a member that has a parent was given another');
  member.parent = parent;
  parent.kin.push(member);
  parent.host.load++;
  refresh(parent);
}

/** Hangs a detached zone under a host of another zone. */
export function attachGuest(parent: Member, zone: Zone): void {
  assert(zone.head.parent === undefined, 'a zone that has a parent was given another');
  zone.head.parent = parent;
  zone.up = parent.zone;
  parent.guests.push(zone.head);
  parent.zone.kids.push(zone);
  parent.host.load++;
  refresh(parent);
}

/**
 * Takes a member, or the zone that it heads, from its parent. Everything below stays attached to
 * it.
 */
export function detach(member: Member): void {
  const parent = member.parent;
  if (parent === undefined) return;
  member.parent = undefined;
  parent.host.load--;
  const zone = member.zone;
  if (zone.head !== member) {
    drop(parent.kin, member);
  } else if (zone.forced) {
    zone.forced = false;
    return;
  } else {
    drop(parent.guests, member);
    drop(parent.zone.kids, zone);
    zone.up = undefined;
  }
  refresh(parent);
}

/**
 * Puts the detached `next` where `old` is. `old` ends up detached, with its children still under
 * it.
 */
export function substitute(old: Member, next: Member): void {
  assert(next.parent === undefined, 'a member that has a parent was given another');
  const parent = old.parent;
  old.parent = undefined;
  next.parent = parent;
  if (old.zone.head === old) {
    old.zone.head = next;
    if (parent !== undefined && !old.zone.forced) put(parent.guests, old, next);
  } else if (parent !== undefined) {
    put(parent.kin, old, next);
  }
  refresh(next);
  if (parent !== undefined) refresh(parent);
}

/**
 * Gives the children of the detached `old` to `next` while `next` has slots; detaches and returns
 * the rest.
 */
export function inherit(old: Member, next: Member): { kin: Member[]; zones: Zone[] } {
  const left: { kin: Member[]; zones: Zone[] } = { kin: [], zones: [] };
  for (const kid of [...old.kin]) {
    detach(kid);
    if (freeSlots(next) > 0) attachKin(next, kid);
    else left.kin.push(kid);
  }
  for (const guest of [...old.guests]) {
    detach(guest);
    if (freeSlots(next) > 0) attachGuest(next, guest.zone);
    else left.zones.push(guest.zone);
  }
  return left;
}

/**
 * The host to take the place of a departing member, with all its children. The first choice is a
 * child with slots for its siblings (one move each), then the deepest childless host of the zone
 * (one more move, and nobody sinks), then the child with the most slots. Undefined when the zone
 * has no other host.
 */
export function successorOf(member: Member): Member | undefined {
  const count = member.kin.length + member.guests.length;
  let best: Member | undefined;
  for (const kid of member.kin) {
    if (freeSlots(kid) < count - 1) continue;
    if (best === undefined || kid.height > best.height) best = kid;
  }
  if (best !== undefined) return best;
  const head = member.zone.head;
  if (head.spare >= 0) {
    const leaf = deepest(head, 'spare');
    if (leaf.limit >= count && leaf !== head) return leaf;
  }
  for (const kid of member.kin) {
    if (best === undefined || freeSlots(kid) > freeSlots(best)) best = kid;
  }
  return best;
}

/** The two children in its own zone with the lowest subtrees. */
function lowestPair(member: Member): [Member, Member] {
  const sorted = [...member.kin].sort((a, b) => a.height - b.height || a.host.order - b.host.order);
  return [
    defined(sorted[0], 'makeRoom() was called for a host without kin'),
    defined(sorted[1], 'makeRoom() was called for a host with one child'),
  ];
}

/**
 * Frees a slot of a host whose slots are full, for a guest. One child moves under another child
 * that has a slot. If there is none, two children move under the deepest childless host, which
 * takes the slot of one of them. At most one level deeper, at most three moves.
 */
export function makeRoom(member: Member): void {
  const [low, next] = lowestPair(member);
  const open = member.kin.find((kid) => freeSlots(kid) > 0);
  if (open !== undefined) {
    const moved = open === low ? next : low;
    detach(moved);
    attachKin(open, moved);
    return;
  }
  if (member.spare >= 0) {
    const joint = deepest(member, 'spare');
    detach(joint);
    detach(low);
    detach(next);
    attachKin(member, joint);
    attachKin(joint, low);
    attachKin(joint, next);
    return;
  }
  const way = defined(
    member.kin.find((kid) => kid.near < NONE),
    'makeRoom() was called for a host without a free slot below it',
  );
  const moved = way === low ? next : low;
  detach(moved);
  attachKin(descend(way), moved);
}

/**
 * Takes a member and its kin apart, so that each can be placed alone; also returns the zones that
 * hung from them, detached.
 */
export function scatter(top: Member): { members: Member[]; zones: Zone[] } {
  const members: Member[] = [top];
  const zones: Zone[] = [];
  for (let i = 0; i < members.length; i++) {
    const member = defined(members[i], 'the list of members has no holes');
    for (const guest of [...member.guests]) {
      detach(guest);
      zones.push(guest.zone);
    }
    for (const kid of [...member.kin]) {
      detach(kid);
      members.push(kid);
    }
  }
  return { members, zones };
}

/** Sets how many children a member may have. The caller moves any children beyond that. */
export function setLimit(member: Member, limit: number): void {
  member.limit = limit;
  refresh(member);
  refreshZone(member.zone);
}
