import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { EvictionOrder, Ordered, REUSE_GAP_MS } from '../../src/blockstore/eviction.ts';
import type { KeepClass } from '../../src/blockstore/store.ts';

class Named extends Ordered<Named> {
  readonly name: string;

  constructor(name: string) {
    super();
    this.name = name;
  }
}

const named = (name: string): Named => new Named(name);
const names = (order: EvictionOrder<Named>, keepMax: KeepClass = 'pinned'): string[] =>
  [...order.candidates(keepMax)].map(({ name }) => name);
const fresh = (lastUseMs: number) => ({ proven: false, lastUseMs });

/** Groups a, b, c, ... of a class, each used once, at time 0. */
function filled(count: number, keep: KeepClass = 'plain') {
  const order = new EvictionOrder<Named>();
  const groups = Array.from({ length: count }, (_, i) => named(String.fromCharCode(97 + i)));
  for (const group of groups) order.add(group, keep, fresh(0));
  return { order, groups };
}

describe('EvictionOrder', () => {
  it('EvictionOrder gives the least recently used groups first', () => {
    const { order, groups } = filled(4);
    order.use(groups[0]!, 10);
    order.use(groups[2]!, 20);
    expect(names(order)).toEqual(['b', 'd', 'a', 'c']);
    order.remove(groups[3]!);
    expect(names(order)).toEqual(['b', 'a', 'c']);
  });

  it('EvictionOrder.use() proves a group by a later use, not by many uses at once', () => {
    const { order, groups } = filled(5);
    for (let ms = 0; ms < REUSE_GAP_MS; ms += 1000) order.use(groups[0]!, ms);
    expect(groups[0]!.proven).toBe(false);
    order.use(groups[1]!, REUSE_GAP_MS);
    expect(groups[1]!.proven).toBe(true);
    expect(names(order)).toEqual(['c', 'd', 'e', 'a', 'b']);
  });

  it('EvictionOrder keeps a fifth of the places for new groups', () => {
    const { order, groups } = filled(5);
    for (const group of groups) order.use(group, REUSE_GAP_MS);
    const proven = (): boolean[] => groups.map((group) => group.proven);
    expect(proven()).toEqual(Array(5).fill(true));
    // For an eviction, the group proven first becomes fresh again.
    expect(names(order)).toEqual(['a', 'b', 'c', 'd', 'e']);
    expect(proven()).toEqual([false, true, true, true, true]);
  });

  it('EvictionOrder gives all groups of a class before any of the next', () => {
    const order = new EvictionOrder<Named>();
    order.add(named('pinned'), 'pinned', fresh(0));
    order.add(named('mounted'), 'mounted', fresh(0));
    order.add(named('plain'), 'plain', { proven: true, lastUseMs: 5 });
    expect(names(order)).toEqual(['plain', 'mounted', 'pinned']);
    expect(names(order, 'mounted')).toEqual(['plain', 'mounted']);
    expect(names(order, 'plain')).toEqual(['plain']);
  });

  it('EvictionOrder.move() moves a group to the other class and back', () => {
    const { order, groups } = filled(3);
    order.move(groups[0]!, 'mounted');
    expect(names(order, 'plain')).toEqual(['b', 'c']);
    order.move(groups[0]!, 'plain');
    expect(names(order, 'plain')).toEqual(['b', 'c', 'a']);
  });

  it('EvictionOrder loses nothing of the hot set to a scan ten times the size of the store', () => {
    const [capacity, hotCount] = [100, 60];
    const order = new EvictionOrder<Named>();
    const held = new Set<Named>();
    const come = (group: Named, nowMs: number): void => {
      if (held.has(group)) return order.use(group, nowMs);
      if (held.size === capacity) {
        const [victim] = order.candidates('plain');
        order.remove(victim!);
        held.delete(victim!);
      }
      held.add(group);
      order.add(group, 'plain', fresh(nowMs));
    };
    const hot = Array.from({ length: hotCount }, (_, i) => named(`hot-${i}`));
    for (const [round, group] of [0, 1].flatMap((each) => hot.map((one) => [each, one] as const))) {
      come(group, round * 2 * REUSE_GAP_MS);
    }
    for (let i = 0; i < 10 * capacity; i++) {
      const scanned = named(`scan-${i}`);
      // Each is read block by block, without a pause.
      for (let read = 0; read < 64; read++) come(scanned, 3 * REUSE_GAP_MS + i * 100 + read);
    }
    expect(hot.filter((group) => held.has(group))).toHaveLength(hotCount);
  });

  it('EvictionOrder holds each group once, after any operations', () => {
    const step = fc.tuple(
      fc.constantFrom('add', 'use', 'move', 'remove'),
      fc.nat(7),
      fc.constantFrom<KeepClass>('plain', 'mounted', 'pinned'),
      fc.nat(5 * REUSE_GAP_MS),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const order = new EvictionOrder<Named>();
        const groups = Array.from({ length: 8 }, (_, i) => named(`${i}`));
        const model = new Map<Named, KeepClass>();
        for (const [what, which, keep, nowMs] of steps) {
          const group = groups[which]!;
          if (what === 'add') {
            order.add(group, keep, fresh(nowMs));
            model.set(group, keep);
          } else if (what === 'remove') {
            order.remove(group);
            model.delete(group);
          } else if (model.has(group)) {
            if (what === 'use') order.use(group, nowMs);
            else order.move(group, keep);
            if (what === 'move') model.set(group, keep);
          }
          const rank = { plain: 0, mounted: 1, pinned: 2 };
          const found = [...order.candidates('pinned')];
          expect(new Set(found)).toEqual(new Set(model.keys()));
          expect(found).toHaveLength(model.size);
          const ranks = found.map((each) => rank[model.get(each)!]);
          expect(ranks).toEqual(ranks.toSorted());
        }
      }),
    );
  });
});
