import fc from 'fast-check';
import { expect, test } from 'vitest';
import { rendezvousOrder, RootRing } from '../../src/tree/rendezvous.ts';
import { peerId } from '../../src/util/peer-id.ts';
import { digestOf } from './kit/messages.ts';

const roots = (count: number) =>
  Array.from({ length: count }, (_, i) => peerId(`12D3KooWroot${i}`));

test('rendezvousOrder() gives each root about the same share of the stripes', () => {
  const owned = new Map(roots(5).map((root) => [root, 0]));
  const ring = new RootRing(roots(5));
  for (let n = 0; n < 5_000; n++) {
    const owner = ring.order(digestOf(n), n % 8)[0];
    if (owner !== undefined) owned.set(owner, (owned.get(owner) ?? 0) + 1);
  }
  // 1,000 each; the standard deviation is 28.
  for (const count of owned.values()) expect(Math.abs(count - 1_000)).toBeLessThan(120);
});

test('rendezvousOrder() spreads the stripes of one blob evenly', () => {
  const property = fc.property(fc.nat(), fc.integer({ min: 1, max: 9 }), (n, count) => {
    const owned = new Map<string, number>(roots(count).map((root) => [root, 0]));
    for (let stripe = 0; stripe < 8; stripe++) {
      const order = rendezvousOrder(digestOf(n), stripe, roots(count));
      expect(new Set(order).size).toBe(count);
      const owner = order[0] ?? '';
      owned.set(owner, (owned.get(owner) ?? 0) + 1);
    }
    expect(Math.max(...owned.values())).toBe(Math.ceil(8 / count));
    expect(Math.min(...owned.values())).toBe(Math.floor(8 / count));
  });
  fc.assert(property);
});

test('rendezvousOrder() keeps the order of the others when a root goes', () => {
  fc.assert(
    fc.property(fc.nat(), fc.integer({ min: 2, max: 9 }), fc.nat(), (n, count, gone) => {
      const all = roots(count);
      const lost = all[gone % count];
      const before = rendezvousOrder(digestOf(n), 0, all);
      const after = rendezvousOrder(
        digestOf(n),
        0,
        all.filter((root) => root !== lost),
      );
      expect(after).toEqual(before.filter((root) => root !== lost));
    }),
  );
});

test('rendezvousOrder() does not depend on the order or on repeats of the given roots', () => {
  const order = rendezvousOrder(digestOf(3), 2, roots(6));
  expect(rendezvousOrder(digestOf(3), 2, [...roots(6), ...roots(6)].reverse())).toEqual(order);
  expect(rendezvousOrder(digestOf(3), 2, [])).toEqual([]);
});

test('rendezvousOrder() is the same in every version of the agent', () => {
  const orders = [1, 2, 3].map((n) =>
    rendezvousOrder(digestOf(n), n, roots(4))
      .map((root) => root.slice(-1))
      .join(''),
  );
  expect(orders).toEqual(['2130', '2031', '2310']);
});
