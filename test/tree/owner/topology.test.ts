import { describe, expect, test } from 'vitest';
import { SeededRandom } from '../../../src/sim/seeded-random.ts';
import { blockIndex } from '../../../src/image/block.ts';
import type { Digest } from '../../../src/image/digest.ts';
import { depthBound, depthBoundZoned } from '../../../src/tree/owner/depth.ts';
import { TreeError } from '../../../src/tree/errors.ts';
import type { HostCard, Place, ReportReply, WantedBlob } from '../../../src/tree/messages.ts';
import { Topology } from '../../../src/tree/owner/topology.ts';
import { defined } from '../../../src/util/assert.ts';
import { peerId } from '../../../src/util/peer-id.ts';
import { card, digestOf, joinOf, shapeOf, wanted } from '../kit/messages.ts';

const OWNER = card('owner');
/** Every host has `fanOut` children in every tree. */
const PLAIN = { colours: 1 } as const;
const D1 = digestOf(1);

function join(topology: Topology, host: HostCard, nowMs = 0): Place {
  return defined(topology.join(host.peer, joinOf(host), nowMs).places[0], 'one place');
}

function report(
  topology: Topology,
  place: { host: HostCard; epoch: number; lost?: readonly string[] },
  nowMs = 0,
): ReportReply {
  const { host, epoch, lost } = place;
  const held = [{ digest: D1, stripe: 0, epoch }];
  return topology.report(host.peer, { lost: (lost ?? []).map(peerId), held }, nowMs);
}

function pathOf(place: Place | undefined): string {
  return place?.path.map(({ peer }) => peer).join(' ') ?? 'none';
}

function tree(topology: Topology): string {
  return topology
    .edges(D1, 0)
    .map(({ peer, parent }) => `${peer}<${parent}`)
    .join(' ');
}

/** Hosts a, b, c, ... joined in this order. */
function joined(names: string, init: { topology?: Topology; zone?: string } = {}) {
  const topology = init.topology ?? new Topology({ ...PLAIN, self: OWNER });
  const hosts = new Map<string, HostCard>();
  const places = new Map<string, Place>();
  for (const name of names) {
    const host = card(name, { zone: init.zone ?? 'z0' });
    hosts.set(name, host);
    places.set(name, join(topology, host));
  }
  const host = (name: string): HostCard => defined(hosts.get(name), 'a host that joined');
  const place = (name: string): Place => defined(places.get(name), 'a host that joined');
  return { topology, host, place };
}

describe('Topology.join()', () => {
  test('Topology.join() fills the shallowest slot, then by load, then by order of joining', () => {
    const { topology, place } = joined('abcdefg');
    expect(tree(topology)).toBe('a<owner b<owner c<a d<b e<a f<b g<c');
    expect(pathOf(place('g'))).toBe('c a owner');
  });

  test('Topology.join() spreads children over hosts by their load in all trees', () => {
    const topology = new Topology({ ...PLAIN, self: OWNER });
    for (const name of 'abc') join(topology, card(name));
    // c hangs under a in the first tree; a host that is not in the first tree goes under b in the
    // second.
    for (const name of 'abd') topology.join(peerId(name), joinOf(card(name), wanted(2)), 0);
    expect(topology.edges(digestOf(2), 0).map(({ parent }) => parent)).toEqual([
      'owner',
      'owner',
      'b',
    ]);
  });

  test('Topology.join() gives a host one parent in all trees of a colour', () => {
    const topology = new Topology({ ...PLAIN, self: OWNER });
    const blobs = [wanted(1), wanted(2), wanted(3)];
    const hosts = Array.from({ length: 50 }, (_, i) => card(`h${i}`));
    for (const host of hosts) topology.join(host.peer, joinOf(host, ...blobs), 0);
    for (const n of [2, 3]) {
      expect(topology.edges(digestOf(n), 0)).toEqual(topology.edges(digestOf(1), 0));
    }
  });

  test('Topology.join() repeated gives the same place with the same epoch', () => {
    const { topology, host, place } = joined('abcde');
    expect(join(topology, host('e'))).toEqual(place('e'));
  });

  test('Topology.join() names alternates nearer to the owner than the host itself', () => {
    const { place } = joined('abcdefg');
    expect(place('a').alternates).toEqual([]);
    expect(place('c').alternates.map(({ peer }) => peer)).toEqual(['b']);
    expect(place('g').alternates.map(({ peer }) => peer)).toEqual(['e', 'b']);
  });

  test('Topology.join() hangs each zone by one head, near the owner', () => {
    const topology = new Topology({ ...PLAIN, self: OWNER });
    const random = new SeededRandom('heads');
    for (let i = 0; i < 500; i++) join(topology, card(`h${i}`, { zone: `z${random.below(6)}` }));
    const shape = shapeOf(topology.edges(D1, 0), OWNER);
    expect([...shape.crossings.values()]).toEqual([1, 1, 1, 1, 1]);
    const zoneSizeMax = Math.max(...shape.zoneSizes.values());
    expect(shape.depthMax).toBeLessThanOrEqual(
      depthBoundZoned({ zoneCount: 5, zoneSizeMax, fanOut: 2 }),
    );
  });

  test('Topology.join() lets a host with capacity replace a host without', () => {
    const topology = new Topology({ ...PLAIN, self: OWNER });
    for (const name of ['x', 'y', 'z']) join(topology, card(name, { capacity: 0 }));
    expect(tree(topology)).toBe('x<owner y<owner z<owner');
    join(topology, card('a'));
    expect(tree(topology)).toBe('x<a y<owner z<a a<owner');
  });

  test('Topology.join() gives the owner a larger fan-out when configured', () => {
    const { topology } = joined('abcde', {
      topology: new Topology({ ...PLAIN, self: OWNER, rootFanOut: 4 }),
    });
    expect(tree(topology)).toBe('a<owner b<owner c<owner d<owner e<a');
  });

  test('Topology.join() refuses an invalid request and changes nothing', () => {
    const topology = new Topology({
      ...PLAIN,
      self: OWNER,
      membersPerTreeMax: 2,
      treesMax: 2,
      hostsMax: 3,
    });
    const digests = (host: HostCard, ...blobs: WantedBlob[]): Digest[] =>
      topology.join(host.peer, joinOf(host, ...blobs), 0).places.map(({ digest }) => digest);
    const codeOf = (run: () => unknown): string => {
      try {
        run();
        return 'none';
      } catch (error) {
        if (!(error instanceof TreeError)) throw error;
        return error.detail.code === 'full' ? `full ${error.detail.what}` : error.detail.field;
      }
    };
    const a = card('a');
    expect(codeOf(() => topology.join(peerId('b'), joinOf(a), 0))).toBe('host');
    expect(codeOf(() => topology.join(OWNER.peer, joinOf(OWNER), 0))).toBe('host');
    expect(codeOf(() => join(topology, card('c', { capacity: -1 })))).toBe('capacity');
    expect(codeOf(() => topology.join(a.peer, joinOf(a, { ...wanted(1), stripes: [1] }), 0))).toBe(
      'stripes',
    );
    expect(topology.addressOf(a.peer)).toBeUndefined();
    // One host founds no more than its part; the others get theirs.
    expect(digests(a, wanted(1), wanted(2), wanted(3))).toEqual([D1]);
    join(topology, card('b'));
    expect(digests(card('c'))).toEqual([]);
    expect(topology.addressOf(peerId('c'))).toBeUndefined();
    expect(digests(a)).toEqual([D1]);
    expect(digests(card('c'), wanted(2), wanted(3))).toEqual([digestOf(2)]);
    expect(digests(a, wanted(3))).toEqual([]);
    expect(codeOf(() => topology.join(peerId('d'), joinOf(card('d'), wanted(2)), 0))).toBe(
      'full hosts',
    );
  });

  test('Topology.join() with another card moves the host, and updates its address below it', () => {
    const { topology, place } = joined('abcdefg');
    join(topology, card('a', { addresses: ['/dns4/new/tcp/1'] }));
    const again = report(topology, { host: card('g'), epoch: place('g').epoch }).places[0];
    expect(again?.path[1]).toEqual({ peer: 'a', addresses: ['/dns4/new/tcp/1'] });
    join(topology, card('a', { zone: 'z9' }));
    expect(topology.edges(D1, 0).find(({ peer }) => peer === 'a')?.zone).toBe('z9');
    expect(shapeOf(topology.edges(D1, 0), OWNER).members).toBe(7);
  });
});

describe('Topology with more blobs than it keeps trees', () => {
  test('Topology.join() leaves room for others when one host wants too many trees', () => {
    const topology = new Topology({ ...PLAIN, self: OWNER, treesMax: 64 });
    const hog = card('hog');
    const many = Array.from({ length: 100 }, (_, i) => wanted(1000 + i));
    expect(topology.join(hog.peer, joinOf(hog, ...many), 0).places).toHaveLength(16);
    for (let i = 0; i < 48; i++) {
      const host = card(`h${i}`);
      expect(topology.join(host.peer, joinOf(host, wanted(i)), 0).places).toHaveLength(1);
    }
    expect(topology.join(hog.peer, joinOf(hog, wanted(2000)), 0).places).toEqual([]);
    topology.leave(hog.peer, { digests: many.map(({ blob }) => blob.digest) }, 0);
    expect(topology.join(hog.peer, joinOf(hog, wanted(2000)), 0).places).toHaveLength(1);
  });

  test('Topology.drop() takes every host out of the trees, and replies to reports say so', () => {
    const told: string[] = [];
    const onTrees = (digest: Digest, any: boolean): void =>
      void told.push(`${digest === D1} ${any}`);
    const { topology, host } = joined('abc', {
      topology: new Topology({ ...PLAIN, self: OWNER, onTrees }),
    });
    topology.drop(D1, 0);
    expect(topology.trees()).toEqual([]);
    expect(told).toEqual(['true true', 'true false']);
    expect(report(topology, { host: host('b'), epoch: 1 }).unknown).toEqual([D1]);
  });
});

describe('Topology.leave()', () => {
  test('Topology.leave() moves the children of the host and nobody below them', () => {
    const { topology, host } = joined('abcdefghijklmn');
    const before = new Map(topology.edges(D1, 0).map(({ peer, parent }) => [peer, parent]));
    topology.leave(host('a').peer, { digests: [D1] }, 0);
    const moved = topology.edges(D1, 0).filter(({ peer, parent }) => before.get(peer) !== parent);
    // Two children, and the leaf that takes the host's place.
    expect(moved).toHaveLength(3);
    expect(new Set(moved.slice(0, 2).map(({ parent }) => parent)).size).toBe(1);
  });

  test('Topology.leave() of a head gives the zone another head', () => {
    const topology = new Topology({ ...PLAIN, self: OWNER });
    for (const name of 'abcdefg') join(topology, card(name, { zone: 'far' }));
    topology.leave(peerId('a'), { digests: [D1] }, 0);
    const edges = topology.edges(D1, 0);
    expect(edges.filter(({ parent }) => parent === OWNER.peer)).toHaveLength(1);
    expect(shapeOf(edges, OWNER).crossings.get('far')).toBe(1);
  });

  test('Topology.leave() of the last member forgets the tree', () => {
    const { topology, host } = joined('a');
    topology.leave(host('a').peer, { digests: [D1] }, 0);
    expect(topology.trees()).toEqual([]);
    expect(topology.addressOf(host('a').peer)).toBeUndefined();
  });

  test('Topology.leave() of nearly all hosts leaves a tree within the bound', () => {
    const topology = new Topology({ ...PLAIN, self: OWNER });
    for (let i = 0; i < 1_000; i++) join(topology, card(`h${i}`));
    for (let i = 0; i < 990; i++)
      topology.leave(peerId(`h${(i * 7) % 1_000}`), { digests: [D1] }, 0);
    const shape = shapeOf(topology.edges(D1, 0), OWNER);
    expect(shape.members).toBe(10);
    expect(shape.depthMax).toBeLessThanOrEqual(depthBound(10, 2));
  });
});

describe('Topology.report()', () => {
  test('Topology.report() answers with the new place only after a change', () => {
    const { topology, host, place } = joined('abcdefg');
    expect(report(topology, { host: host('c'), epoch: place('c').epoch })).toEqual({
      places: [],
      unknown: [],
    });
    topology.leave(host('a').peer, { digests: [D1] }, 0);
    const reply = report(topology, { host: host('c'), epoch: place('c').epoch });
    expect(reply.places[0]?.epoch).toBeGreaterThan(place('c').epoch);
    expect(pathOf(reply.places[0])).not.toContain('a');
  });

  test('Topology.report() names the blobs of hosts and trees that it does not know', () => {
    const { topology } = joined('a');
    expect(report(topology, { host: card('x'), epoch: 1 }).unknown).toEqual([D1]);
    const held = [{ digest: digestOf(9), stripe: 0, epoch: 1 }];
    expect(topology.report(peerId('a'), { lost: [], held }, 0).unknown).toEqual([digestOf(9)]);
  });

  test('Topology.report() moves a child away from its lost parent, and no other host', () => {
    const { topology, host, place } = joined('abcdef');
    const reply = report(topology, { host: host('c'), epoch: place('c').epoch, lost: ['a'] });
    expect(pathOf(reply.places[0])).not.toContain('a');
    expect(topology.edges(D1, 0).find(({ peer }) => peer === 'e')?.parent).toBe('a');
  });

  test('Topology.report() by two children makes their parent a leaf until it reports again', () => {
    const { topology, host, place } = joined('abcdef');
    report(topology, { host: host('c'), epoch: place('c').epoch, lost: ['a'] });
    report(topology, { host: host('e'), epoch: place('e').epoch, lost: ['a'] });
    const childrenOf = (peer: string) =>
      topology.edges(D1, 0).filter(({ parent }) => parent === peer);
    expect(childrenOf('a')).toEqual([]);
    for (const name of 'ghijk') join(topology, card(name));
    expect(childrenOf('a')).toEqual([]);
    report(topology, { host: host('a'), epoch: place('a').epoch });
    for (const name of 'lmnopqrs') join(topology, card(name));
    expect(childrenOf('a').length).toBeGreaterThan(0);
  });

  test('Topology.report() adds up the reports of one minute, and ignores older ones', () => {
    const childrenAfter = (secondMs: number): string[] => {
      const { topology, host, place } = joined('abcdef');
      report(topology, { host: host('c'), epoch: place('c').epoch, lost: ['a'] }, 0);
      for (const name of 'ghijk') join(topology, card(name));
      expect(topology.edges(D1, 0).filter(({ parent }) => parent === 'a')).toHaveLength(2);
      report(topology, { host: host('e'), epoch: place('e').epoch, lost: ['a'] }, secondMs);
      const left = topology.edges(D1, 0).filter(({ parent }) => parent === 'a');
      return left.map(({ peer }) => peer);
    };
    expect(childrenAfter(60_000)).toEqual([]);
    expect(childrenAfter(60_001)).toHaveLength(1);
  });

  test('Topology.report() ignores a loss reported by a host that is not below the lost one', () => {
    const { topology, host, place } = joined('abcdef');
    const before = tree(topology);
    for (const name of 'df')
      report(topology, { host: host(name), epoch: place(name).epoch, lost: ['a'] });
    expect(tree(topology)).toBe(before);
  });

  test('Topology.report() that leaves out a tree for long removes the host from that tree', () => {
    const { topology, host } = joined('ab');
    topology.report(host('a').peer, { lost: [], held: [] }, 60_000);
    expect(topology.edges(D1, 0)).toHaveLength(2);
    topology.report(host('a').peer, { lost: [], held: [] }, 130_000);
    expect(topology.edges(D1, 0)).toHaveLength(1);
  });

  test('Topology.report() keeps a moved host out of paths until it holds its new place', () => {
    const { topology, host, place } = joined('abcdefghijklmn');
    topology.leave(host('a').peer, { digests: [D1] }, 0);
    const heir = defined(
      topology.edges(D1, 0).find(({ peer, parent }) => parent === 'owner' && peer !== 'b'),
      'one took the place of a',
    ).peer;
    const child = report(topology, { host: host('c'), epoch: place('c').epoch }).places[0];
    expect(pathOf(child)).toBe('owner');
    const moved = report(topology, { host: host(heir), epoch: place(heir).epoch }).places[0];
    expect(pathOf(moved)).toBe('owner');
    expect(report(topology, { host: host('c'), epoch: child?.epoch ?? 0 }).places).toEqual([]);
    report(topology, { host: host(heir), epoch: moved?.epoch ?? 0 });
    const settled = report(topology, { host: host('c'), epoch: child?.epoch ?? 0 }).places[0];
    expect(pathOf(settled)).toBe(`${heir} owner`);
  });
});

describe('Topology.tick()', () => {
  test('Topology.tick() removes hosts that were silent for longer than the expiry', () => {
    const topology = new Topology({ ...PLAIN, self: OWNER, expiryMs: 1_000 });
    const place = join(topology, card('a'), 0);
    join(topology, card('b'), 0);
    report(topology, { host: card('a'), epoch: place.epoch }, 900);
    topology.tick(1_001);
    expect(tree(topology)).toBe('a<owner');
    topology.tick(1_901);
    for (const name of 'ab') expect(topology.addressOf(peerId(name))).toBeUndefined();
  });
});

describe('Topology.holders()', () => {
  const block = blockIndex;
  const joinHolding = (topology: Topology, name: string, held: [number, number][]): void => {
    const host = card(name);
    topology.join(host.peer, joinOf(host, { ...wanted(1), held }), 0);
  };

  test('Topology.holders() names the present hosts that announced the block', () => {
    const topology = new Topology({ ...PLAIN, self: OWNER, expiryMs: 1_000 });
    joinHolding(topology, 'a', [
      [0, 3],
      [10, 1],
    ]);
    joinHolding(topology, 'b', [[2, 4]]);
    joinHolding(topology, 'c', []);
    const at = (index: number) => topology.holders(D1, block(index));
    expect([at(0), at(2), at(3), at(9), at(10)]).toEqual([['a'], ['a', 'b'], ['b'], [], ['a']]);
    topology.leave(peerId('a'), { digests: [D1] }, 0);
    expect(at(2)).toEqual(['b']);
    topology.tick(5_000);
    expect(at(2)).toEqual([]);
  });

  test('Topology.holders() keeps the richest 64 hosts and answers with 8', () => {
    const topology = new Topology({ ...PLAIN, self: OWNER });
    for (let i = 0; i < 70; i++) joinHolding(topology, `h${i}`, [[0, 1 + i]]);
    expect(topology.holders(D1, block(0))).toHaveLength(8);
    expect(topology.holders(D1, block(0))[0]).toBe('h6');
  });
});

describe('Topology.touch()', () => {
  const ordersAt = (topology: Topology) => {
    const host = card('b');
    return topology.join(host.peer, joinOf(host), 0).orders;
  };

  test('Topology.touch() records the order of first touches, which replies to JOIN carry', () => {
    const { topology } = joined('a');
    expect(ordersAt(topology)).toEqual([]);
    for (const index of [5, 2, 5, 9]) topology.touch(D1, blockIndex(index));
    expect(ordersAt(topology)).toEqual([{ digest: D1, indices: [5, 2, 9] }]);
  });

  test('Topology.touch() stops at 8,192 blocks of a blob', () => {
    const { topology } = joined('a');
    for (let i = 0; i < 9_000; i++) topology.touch(D1, blockIndex(i));
    expect(ordersAt(topology)[0]?.indices).toHaveLength(8_192);
  });
});

test('depthBound() is ceil(log_f N) + 1', () => {
  const at = (count: number, fanOut: number) => depthBound(count, fanOut);
  expect([at(0, 2), at(1, 2), at(2, 2), at(3, 2), at(10_000, 2), at(27, 3), at(28, 3)]).toEqual([
    0, 1, 2, 3, 15, 4, 5,
  ]);
});
