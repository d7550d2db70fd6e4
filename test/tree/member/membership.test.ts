import { describe, expect, test } from 'vitest';
import { SeededRandom } from '../../../src/sim/seeded-random.ts';
import { Membership, type MembershipEffect } from '../../../src/tree/member/membership.ts';
import type { BlockRun, HostAddress, Place } from '../../../src/tree/messages.ts';
import { rendezvousOrder } from '../../../src/tree/rendezvous.ts';
import { defined } from '../../../src/util/assert.ts';
import { peerId } from '../../../src/util/peer-id.ts';
import { card, digestOf, ORIGIN, wanted } from '../kit/messages.ts';

const D1 = digestOf(1);
const ROOTS = ['r1', 'r2', 'r3'].map((name) => card(name));
const [FIRST, SECOND, THIRD] = rendezvousOrder(
  D1,
  0,
  ROOTS.map(({ peer }) => peer),
) as [HostAddress['peer'], HostAddress['peer'], HostAddress['peer']];

function addresses(names: string): HostAddress[] {
  return names.split(' ').map((name) => ({ peer: peerId(name), addresses: [`/dns4/${name}`] }));
}

function placeOf(path: string, epoch: number, alternates = ''): Place {
  return {
    digest: D1,
    stripe: 0,
    epoch,
    path: addresses(path),
    alternates: alternates === '' ? [] : addresses(alternates),
  };
}

/** A host that wants blob 1, and the requests that it sends. */
class Child {
  readonly membership: Membership;
  nowMs = 0;
  sent: MembershipEffect[] = [];

  constructor(init: { roots?: readonly HostAddress[]; isRoot?: boolean; name?: string } = {}) {
    this.membership = new Membership({
      self: card(init.name ?? 'me'),
      isRoot: init.isRoot ?? false,
      random: new SeededRandom('membership'),
    });
    this.did(this.membership.rootsChanged(init.roots ?? ROOTS, 0));
  }

  did(effects: readonly MembershipEffect[]): void {
    this.sent.push(...effects);
  }

  want(held: BlockRun[] = []): void {
    const { blob } = wanted(1);
    this.did(this.membership.want([{ blob, origin: ORIGIN, held: () => held }], this.nowMs));
  }

  /** The one request of this kind sent since the last `take()`. */
  take<K extends MembershipEffect['kind']>(kind: K): Extract<MembershipEffect, { kind: K }> {
    const found = this.sent.filter((effect) => effect.kind === kind);
    expect(found).toHaveLength(1);
    this.sent = this.sent.filter((effect) => effect.kind !== kind);
    return found[0] as Extract<MembershipEffect, { kind: K }>;
  }

  join(place: Place): void {
    const { ticket } = this.take('join');
    this.did(this.membership.joinReply(ticket, { places: [place], orders: [] }, this.nowMs));
  }

  kin(): string {
    return this.membership
      .kinOf(D1, 0)
      .map(({ peer }) => peer)
      .join(' ');
  }

  /** Lets time pass until the membership wants to wake up. */
  wake(): void {
    this.nowMs = defined(this.membership.nextWakeMs, 'the membership waits for a time');
    this.did(this.membership.tick(this.nowMs));
  }

  wakeUntil(kind: MembershipEffect['kind']): void {
    for (let i = 0; i < 20 && !this.sent.some((effect) => effect.kind === kind); i++) this.wake();
  }

  report(places: Place[], unknown = false): void {
    const { ticket } = this.take('report');
    const reply = { places, unknown: unknown ? [D1] : [] };
    this.did(this.membership.reportReply(ticket, reply, this.nowMs));
  }

  lose(name: string): void {
    this.did(this.membership.peerLost(peerId(name), this.nowMs));
  }

  sources(): string {
    return this.membership
      .sources(D1, 0)
      .map(({ host, role }) => `${role}:${host.peer}`)
      .join(' ');
  }
}

describe('Membership.want()', () => {
  test('Membership.want() joins at the first root in rendezvous order, with held blocks', () => {
    const child = new Child();
    child.want([[3, 2]]);
    const join = child.take('join');
    expect(join.owner.peer).toBe(FIRST);
    expect(join.request.host.peer).toBe('me');
    expect(join.request.blobs).toEqual([{ ...wanted(1), held: [[3, 2]] }]);
    expect(child.membership.nextWakeMs).toBeUndefined();
  });

  test('Membership.want() sends one JOIN per owner for all stripes of all blobs', () => {
    const child = new Child({ roots: ROOTS.slice(0, 1) });
    const image = [wanted(1), wanted(2, [0, 1, 2, 3, 4, 5, 6, 7]), wanted(3)];
    const layers = image.map(({ blob, origin }) => ({ blob, origin, held: () => [] }));
    child.did(child.membership.want(layers, 0));
    expect(child.take('join').request.blobs).toEqual(image);
  });

  test('Membership.want() has at most four JOINs in flight to one owner', () => {
    const child = new Child({ roots: ROOTS.slice(0, 1) });
    for (let n = 1; n <= 6; n++) {
      const { blob } = wanted(n);
      child.did(child.membership.want([{ blob, origin: ORIGIN, held: () => [] }], 0));
    }
    expect(child.sent).toHaveLength(4);
    const first = defined(child.sent[0], 'a JOIN').ticket;
    child.sent = [];
    child.did(child.membership.joinReply(first, { places: [placeOf('r1', 1)], orders: [] }, 0));
    expect(child.take('join').request.blobs).toEqual([wanted(5), wanted(6)]);
  });

  test('Membership.want() waits for a root when none is known', () => {
    const child = new Child({ roots: [] });
    child.want();
    expect(child.sent).toEqual([]);
    expect(child.sources()).toBe('');
    child.did(child.membership.rootsChanged(ROOTS, 5));
    expect(child.take('join').owner.peer).toBe(FIRST);
  });
});

describe('Membership.sources()', () => {
  test('Membership.sources() are the roots until a place is known', () => {
    const child = new Child();
    child.want();
    expect(child.sources()).toBe(`root:${FIRST} root:${SECOND} root:${THIRD}`);
  });

  test('Membership.sources() are the parent, alternates, ancestors, owner and next roots', () => {
    const child = new Child();
    child.want();
    child.join(placeOf(`p g ${FIRST}`, 1, 'u g me'));
    expect(child.sources()).toBe(
      `parent:p alternate:u alternate:g root:${FIRST} root:${SECOND} root:${THIRD}`,
    );
  });

  test('Membership.kinOf() has the hosts of the last places, never this one, eight at most', () => {
    const child = new Child();
    child.want();
    expect(child.kin()).toBe('');
    child.join(placeOf(`p g ${FIRST}`, 1, 'u me'));
    expect(child.kin()).toBe(`u p g ${FIRST}`);
    child.wakeUntil('report');
    child.report([placeOf(`q g ${FIRST}`, 2, 'v')]);
    expect(child.kin()).toBe(`v q g ${FIRST} u p`);
    child.wakeUntil('report');
    child.report([placeOf(`a b c d e ${FIRST}`, 3)]);
    expect(child.kin()).toBe(`a b c d e ${FIRST} v q`);
  });

  test('Membership.sources() continue with the next ancestor as soon as the parent is lost', () => {
    const child = new Child();
    child.want();
    child.join(placeOf(`p g ${FIRST}`, 1, 'u'));
    child.lose('p');
    expect(child.sources()).toBe(`parent:g alternate:u root:${FIRST} root:${SECOND} root:${THIRD}`);
    child.lose('u');
    expect(child.sources()).toBe(`parent:g root:${FIRST} root:${SECOND} root:${THIRD}`);
  });

  test('Membership.sources() try a lost peer again after 30 s', () => {
    const child = new Child();
    child.want();
    child.join(placeOf(`p ${FIRST}`, 1));
    child.lose('p');
    child.did(child.membership.tick(29_999));
    expect(child.sources()).not.toContain(':p');
    child.did(child.membership.tick(30_000));
    expect(child.sources()).toContain('parent:p');
  });

  test('Membership.sources() name lost peers when there are no others', () => {
    const child = new Child({ roots: ROOTS.slice(0, 1) });
    child.want();
    child.join(placeOf('p r1', 1));
    for (const peer of ['p', 'r1']) child.lose(peer);
    expect(child.sources()).toBe('parent:p root:r1');
  });
});

describe('Membership places', () => {
  test('Membership refuses a place whose path leads through itself, and asks again', () => {
    const child = new Child();
    child.want();
    child.join(placeOf(`p me ${FIRST}`, 1));
    expect(child.membership.placeOf(D1, 0)).toBeUndefined();
    expect(child.membership.isRefused(D1, 0)).toBe(true);
    child.wakeUntil('join');
    expect(child.nowMs).toBeLessThanOrEqual(1_500);
    child.join(placeOf(`p ${FIRST}`, 2));
    expect(child.membership.isRefused(D1, 0)).toBe(false);
    expect(child.sources()).toContain('parent:p');
  });

  test('Membership refuses a place that ends at another root, and one without a path', () => {
    const child = new Child();
    child.want();
    child.join(placeOf(`p ${SECOND}`, 1));
    child.wakeUntil('join');
    expect(child.membership.placeOf(D1, 0)).toBeUndefined();
    child.join({ ...placeOf('p', 1), path: [] });
    expect(child.membership.placeOf(D1, 0)).toBeUndefined();
    child.wakeUntil('join');
  });

  test('Membership keeps the place with the higher epoch', () => {
    const child = new Child();
    child.want();
    child.join(placeOf(`p ${FIRST}`, 7));
    child.wakeUntil('report');
    expect(child.take('report').request).toEqual({
      lost: [],
      held: [{ digest: D1, stripe: 0, epoch: 7 }],
    });
    const late = new Child();
    late.want();
    late.join(placeOf(`p ${FIRST}`, 7));
    late.wakeUntil('report');
    late.report([placeOf(`old ${FIRST}`, 6)]);
    expect(late.sources()).toContain('parent:p');
    expect(late.membership.placeOf(D1, 0)?.epoch).toBe(7);
  });

  test('Membership reports a new parent soon', () => {
    const child = new Child();
    child.want();
    child.join(placeOf(`p ${FIRST}`, 1));
    child.wakeUntil('report');
    const movedMs = child.nowMs;
    child.report([placeOf(`q ${FIRST}`, 2)]);
    child.wakeUntil('report');
    expect(child.nowMs - movedMs).toBeLessThanOrEqual(1_000);
    expect(child.take('report').request.held[0]?.epoch).toBe(2);
  });

  test('Membership reports every 30 s, a tenth more or less', () => {
    const child = new Child();
    child.want();
    child.join(placeOf(`p ${FIRST}`, 1));
    for (let i = 0; i < 5; i++) {
      const beforeMs = child.nowMs;
      child.wakeUntil('report');
      expect(Math.abs(child.nowMs - beforeMs - 30_000)).toBeLessThanOrEqual(3_000);
      child.report([]);
    }
  });

  test('Membership gives up a place that its owner does not know, and joins again', () => {
    const child = new Child();
    child.want();
    child.join(placeOf(`p ${FIRST}`, 9));
    child.wakeUntil('report');
    child.report([], true);
    expect(child.membership.placeOf(D1, 0)).toBeUndefined();
    // A restarted owner may start from lower epochs.
    child.join(placeOf(`q ${FIRST}`, 1));
    expect(child.sources()).toContain('parent:q');
  });
});

describe('Membership.peerLost()', () => {
  test('Membership.peerLost() of the parent asks the owner for another within 200 ms', () => {
    const child = new Child();
    child.want();
    child.join(placeOf(`p g ${FIRST}`, 1));
    child.nowMs = 1_000;
    child.lose('p');
    child.wakeUntil('report');
    expect(child.nowMs - 1_000).toBeLessThanOrEqual(200);
    const report = child.take('report');
    expect(report.request.lost).toEqual(['p']);
    const reply = { places: [placeOf(`q g ${FIRST}`, 2)], unknown: [] };
    child.did(child.membership.reportReply(report.ticket, reply, child.nowMs));
    expect(child.sources()).toContain('parent:q');
  });

  test('Membership.peerLost() of a stranger sends nothing', () => {
    const child = new Child();
    child.want();
    child.join(placeOf(`p ${FIRST}`, 1));
    child.lose('stranger');
    expect(child.sent).toEqual([]);
    expect(child.membership.nextWakeMs).toBeGreaterThan(25_000);
  });

  test('Membership.peerLost() of the owner: one failed report, then the next root owns', () => {
    const child = new Child();
    child.want([[0, 4]]);
    child.join(placeOf(`p ${FIRST}`, 1));
    child.lose(FIRST);
    const report = child.take('report');
    child.did(child.membership.reportFailed(report.ticket, child.nowMs, 'failed'));
    const join = child.take('join');
    expect(join.owner.peer).toBe(SECOND);
    expect(join.request.blobs[0]?.held).toEqual([[0, 4]]);
    // Meanwhile the old parent keeps serving.
    expect(child.sources()).toContain('parent:p');
    const places = [placeOf(`q ${SECOND}`, 1)];
    child.did(child.membership.joinReply(join.ticket, { places, orders: [] }, child.nowMs));
    expect(child.sources()).toContain('parent:q');
  });
});

describe('Membership and its roots', () => {
  test('Membership repeats a failed JOIN once, then goes to the next root', () => {
    const child = new Child();
    child.want();
    const owners: string[] = [];
    for (let i = 0; i < 4; i++) {
      child.wakeUntil('join');
      const { owner, ticket } = child.take('join');
      owners.push(owner.peer);
      child.did(child.membership.joinFailed(ticket, child.nowMs, 'failed'));
    }
    expect(owners).toEqual([FIRST, FIRST, SECOND, SECOND]);
  });

  test('Membership tries roots that are down at growing intervals of at most 90 s', () => {
    const child = new Child({ roots: ROOTS.slice(0, 1) });
    child.want();
    let lastMs = 0;
    const gapsMs: number[] = [];
    for (let i = 0; i < 12; i++) {
      child.wakeUntil('join');
      gapsMs.push(child.nowMs - lastMs);
      lastMs = child.nowMs;
      child.did(child.membership.joinFailed(child.take('join').ticket, child.nowMs, 'failed'));
    }
    expect(gapsMs.slice(6).every((gapMs) => gapMs >= 15_000 && gapMs <= 90_000)).toBe(true);
    child.wakeUntil('join');
    child.join(placeOf('r1', 1));
    expect(child.sources()).toBe('parent:r1');
  });

  test('Membership returns to the rightful owner with its next report', () => {
    const child = new Child({ roots: ROOTS.filter(({ peer }) => peer !== FIRST) });
    child.want();
    child.join(placeOf(`p ${SECOND}`, 1));
    child.did(child.membership.rootsChanged(ROOTS, 5));
    expect(child.sent).toEqual([]);
    child.wakeUntil('join');
    expect(child.nowMs).toBeGreaterThan(20_000);
    expect(child.sources()).toContain('parent:p');
    child.join(placeOf(`q ${FIRST}`, 1));
    const leave = child.take('leave');
    expect([leave.owner.peer, leave.request.digests]).toEqual([SECOND, [D1]]);
    expect(child.sources()).toContain('parent:q');
  });

  test('Membership.unwant() leaves, and a new JOIN waits for the LEAVE', () => {
    const child = new Child();
    child.want();
    child.join(placeOf(`p ${FIRST}`, 1));
    child.did(child.membership.unwant(D1, 0));
    const leave = child.take('leave');
    expect(leave.owner.peer).toBe(FIRST);
    expect(child.sources()).toBe('');
    child.want();
    expect(child.sent).toEqual([]);
    expect(child.membership.nextWakeMs).toBeUndefined();
    child.did(child.membership.leaveDone(leave.ticket, 0));
    expect(child.take('join').owner.peer).toBe(FIRST);
  });

  test('Membership ignores the answer to a request that has failed', () => {
    const child = new Child();
    child.want();
    const { ticket } = child.take('join');
    child.did(child.membership.joinFailed(ticket, 0, 'failed'));
    const reply = { places: [placeOf(`p ${FIRST}`, 1)], orders: [] };
    expect(child.membership.joinReply(ticket, reply, 0)).toEqual([]);
    expect(child.membership.placeOf(D1, 0)).toBeUndefined();
  });
});

describe('Membership and silent roots', () => {
  test('Membership goes to the next root as soon as one is silent', () => {
    const child = new Child();
    child.want();
    const { ticket } = child.take('join');
    child.nowMs = 1_000;
    child.did(child.membership.joinFailed(ticket, child.nowMs, 'silent'));
    const join = child.take('join');
    expect(join.owner.peer).toBe(SECOND);
    expect(child.sources()).not.toContain(FIRST);
    child.did(
      child.membership.joinReply(
        join.ticket,
        { places: [placeOf(`p ${SECOND}`, 1)], orders: [] },
        child.nowMs,
      ),
    );
    // Longer than a lost peer is passed over.
    child.did(child.membership.tick(40_000));
    expect(child.sources()).not.toContain(FIRST);
  });

  test('Membership.peerSilent() moves what a root has to the next one, once', () => {
    const child = new Child();
    child.want();
    child.join(placeOf(`p ${FIRST}`, 1));
    for (let i = 0; i < 3; i++) child.did(child.membership.peerSilent(FIRST, 0));
    expect(child.take('join').owner.peer).toBe(SECOND);
    // One silence: the first probe comes as early as after any.
    child.wakeUntil('report');
    expect(child.take('report').owner.peer).toBe(FIRST);
    expect(child.nowMs).toBeLessThanOrEqual(3_000);
    child.did(child.membership.peerSilent(peerId('stranger'), child.nowMs));
    expect(child.sent).toEqual([]);
  });

  test('Membership sends a silent root no JOIN until it has answered a probe', () => {
    const child = new Child();
    child.want();
    child.did(child.membership.joinFailed(child.take('join').ticket, 0, 'silent'));
    child.join(placeOf(`p ${SECOND}`, 1));
    for (let i = 0; i < 3; i++) {
      child.wakeUntil('report');
      const probe = child.sent.find((effect) => effect.owner.peer === FIRST);
      if (probe === undefined) {
        child.report([]);
        continue;
      }
      child.sent = child.sent.filter((effect) => effect !== probe);
      expect(probe.kind === 'report' && probe.request).toEqual({ lost: [], held: [] });
      child.did(child.membership.reportFailed(probe.ticket, child.nowMs, 'failed'));
    }
    child.did(child.membership.unwant(D1, child.nowMs));
    child.did(child.membership.leaveDone(child.take('leave').ticket, child.nowMs));
    child.want();
    expect(child.take('join').owner.peer).toBe(SECOND);
    child.did(child.membership.unwant(D1, child.nowMs));
    child.did(child.membership.leaveDone(child.take('leave').ticket, child.nowMs));
    child.wakeUntil('report');
    expect(child.sent.map(({ owner }) => owner.peer)).toEqual([FIRST]);
    child.report([]);
    child.want();
    expect(child.take('join').owner.peer).toBe(FIRST);
  });

  test('Membership asks its one root once more before it counts as down', () => {
    const child = new Child({ roots: ROOTS.slice(0, 1) });
    child.want();
    child.did(child.membership.joinFailed(child.take('join').ticket, 0, 'silent'));
    child.wakeUntil('join');
    expect(child.nowMs).toBeLessThanOrEqual(1_500);
  });
});

describe('Membership and refusals', () => {
  /** A host that wants blobs 1 to 8 of one root. */
  function wantsEight(): Child {
    const child = new Child({ roots: ROOTS.slice(0, 2) });
    const blobs = Array.from({ length: 8 }, (_, i) => ({
      blob: wanted(i + 1).blob,
      origin: ORIGIN,
      held: () => [],
    }));
    child.did(child.membership.want(blobs, 0));
    return child;
  }

  /** Answers every JOIN that is sent within a time: refuses those that name the blob. */
  function answerJoins(child: Child, bad: string, untilMs: number): { owners: Set<string> } {
    const owners = new Set<string>();
    for (;;) {
      const join = child.sent.find((effect) => effect.kind === 'join');
      if (join?.kind === 'join') {
        child.sent = child.sent.filter((effect) => effect !== join);
        const { blobs } = join.request;
        if (blobs.some(({ blob }) => blob.digest === bad)) {
          owners.add(join.owner.peer);
          child.did(child.membership.joinFailed(join.ticket, child.nowMs, 'refused'));
        } else {
          const places = blobs.map(({ blob }) => ({
            ...placeOf(join.owner.peer, 1),
            digest: blob.digest,
          }));
          child.did(child.membership.joinReply(join.ticket, { places, orders: [] }, child.nowMs));
        }
        continue;
      }
      const wakeMs = child.membership.nextWakeMs;
      if (wakeMs === undefined || wakeMs > untilMs) return { owners };
      child.nowMs = wakeMs;
      child.did(child.membership.tick(wakeMs));
      child.sent = child.sent.filter(({ kind }) => kind === 'join');
    }
  }

  test('Membership has a blob that a root refuses wait by itself, and the others joined', () => {
    const child = wantsEight();
    const bad = wanted(3).blob.digest;
    const { owners } = answerJoins(child, bad, 5_000);
    // No other root is asked for it: the one that refused it lives.
    expect(owners.size).toBe(1);
    for (let i = 1; i <= 8; i++) {
      const { digest } = wanted(i).blob;
      expect(child.membership.placeOf(digest, 0) !== undefined).toBe(digest !== bad);
    }
    // It is asked for less and less often.
    child.sent = [];
    const beforeMs = child.nowMs;
    answerJoins(child, bad, 300_000);
    expect(child.nowMs - beforeMs).toBeGreaterThan(100_000);
  });

  test('Membership holds no refusal of a report against a root', () => {
    const child = new Child();
    child.want();
    child.join(placeOf(`p ${FIRST}`, 1));
    for (let i = 0; i < 3; i++) {
      child.wakeUntil('report');
      const { ticket } = child.take('report');
      child.did(child.membership.reportFailed(ticket, child.nowMs, 'refused'));
      expect(child.sent).toEqual([]);
    }
    expect(child.sources()).toContain('parent:p');
  });
});

describe('Membership of a root', () => {
  test('Membership.isOwner() holds for the first root in the order, which needs no sources', () => {
    const child = new Child({ name: FIRST, isRoot: true });
    expect(child.membership.isOwner(D1, 0)).toBe(true);
    child.want();
    expect(child.sent).toEqual([]);
    expect(child.sources()).toBe('');
    const other = new Child({ name: SECOND, isRoot: true });
    other.want();
    expect(other.membership.isOwner(D1, 0)).toBe(false);
    expect(other.take('join').owner.peer).toBe(FIRST);
  });

  test('Membership.isOwner() passes to the next root while the first is down, and back', () => {
    const child = new Child({ name: SECOND, isRoot: true });
    child.want();
    for (let i = 0; i < 2; i++) {
      child.wakeUntil('join');
      child.did(child.membership.joinFailed(child.take('join').ticket, child.nowMs, 'failed'));
    }
    expect(child.membership.isOwner(D1, 0)).toBe(true);
    child.wakeUntil('join');
    // This host stays the owner until the first root has answered its JOIN.
    expect(child.membership.isOwner(D1, 0)).toBe(true);
    child.join(placeOf(`p ${FIRST}`, 1));
    expect(child.membership.isOwner(D1, 0)).toBe(false);
    expect(child.sources()).toContain('parent:p');
  });
});
