import { expect, test } from 'vitest';
import { Colours, innerFanOut, ownerFanOut } from '../../../src/tree/owner/colours.ts';
import { depthBound } from '../../../src/tree/owner/depth.ts';
import { Topology } from '../../../src/tree/owner/topology.ts';
import { dutyOf } from '../duty.ts';
import { card, digestOf, joinOf, shapeOf, wanted } from '../kit/messages.ts';

test('Colours.paintHost() balances the colours in each zone, also after hosts have gone', () => {
  const colours = new Colours({ count: 3 });
  const painted = [1, 2, 3, 4].map(() => colours.paintHost('a'));
  expect(painted).toEqual([0, 1, 2, 0]);
  expect(colours.paintHost('b')).toBe(0);
  colours.dropHost('a', 2);
  expect(colours.paintHost('a')).toBe(2);
});

test('Colours.paintTree() balances the bytes of the colours', () => {
  const colours = new Colours({ count: 2 });
  expect([50, 30, 10, 30].map((bytes) => colours.paintTree(bytes))).toEqual([0, 1, 1, 1]);
  colours.dropTree(0, 50);
  expect(colours.paintTree(1)).toBe(0);
});

const COUNT = 4;
const STRIPES = [0, 1, 2, 3, 4, 5, 6, 7];

/** An owner of a striped blob that hosts have joined one after the other. */
function joined(hostCount: number, zoneCount = 1) {
  const owner = card('owner');
  const topology = new Topology({ self: owner, fanOut: 2, colours: COUNT });
  for (let i = 0; i < hostCount; i++) {
    const host = card(`h${i}`, { capacity: 100, zone: `z${i % zoneCount}` });
    topology.join(host.peer, joinOf(host, wanted(1, STRIPES)), 0);
  }
  return { owner, trees: STRIPES.map((stripe) => topology.edges(digestOf(1), stripe)) };
}

test.each([5, 100, 1_000])(
  'Topology with colours lets no host of %i send more than its share, nor nearly all',
  (count) => {
    const { trees } = joined(count);
    const sent = new Map<string, number>();
    for (const { parent } of trees.flat()) {
      if (parent !== 'owner') sent.set(parent, (sent.get(parent) ?? 0) + 1);
    }
    const most = (STRIPES.length * innerFanOut(2, COUNT)) / COUNT;
    for (const children of sent.values()) expect(children).toBeLessThanOrEqual(most);
    if (count > 5) expect(sent.size).toBeGreaterThan(count * 0.9);
  },
);

test('Topology with colours gives a host one parent per colour, not one per tree', () => {
  const { trees } = joined(1_000);
  const parents = new Map<string, Set<string>>();
  for (const { peer, parent } of trees.flat()) {
    parents.set(peer, (parents.get(peer) ?? new Set()).add(parent));
  }
  for (const set of parents.values()) expect(set.size).toBeLessThanOrEqual(COUNT);
});

test('Topology with colours keeps the depth of a plain binary tree, and one head per zone', () => {
  for (const zones of [1, 5]) {
    const { owner, trees } = joined(1_000, zones);
    for (const edges of trees) {
      const shape = shapeOf(edges, owner);
      expect(shape.depthMax).toBeLessThanOrEqual(depthBound(1_000, 2));
      expect([...shape.crossings.values()]).toEqual(Array.from({ length: zones - 1 }, () => 1));
    }
  }
});

test('Topology.rootsChanged() bounds the children of an owner among few roots', () => {
  const topology = new Topology({ self: card('owner'), fanOut: 2, colours: COUNT });
  for (const [rootCount, most] of [1, 2, 3, 4, 9].map((n) => [n, ownerFanOut(2, COUNT, n)])) {
    topology.rootsChanged(rootCount ?? 0);
    for (let i = 0; i < 60; i++) {
      const host = card(`h${i}`, { capacity: 100 });
      topology.join(host.peer, joinOf(host, wanted(rootCount ?? 0)), 0);
    }
    const edges = topology.edges(digestOf(rootCount ?? 0), 0);
    expect(edges.filter(({ parent }) => parent === 'owner').length).toBe(most);
  }
  expect([1, 2, 3, 4, 9].map((n) => ownerFanOut(2, COUNT, n))).toEqual([2, 3, 4, 5, 5]);
});

test('Topology and RootRing spread the sending of an image evenly over hosts and roots', () => {
  const duty = dutyOf({ hosts: 300, roots: 4, zones: 1, colours: COUNT });
  expect(Math.max(...duty.hostImages, ...duty.rootImages)).toBeLessThan(1.3);
  expect(duty.parentsPerHost).toBeLessThanOrEqual(COUNT);
  expect(duty.depthMax).toBeLessThanOrEqual(depthBound(300, 2));
});
