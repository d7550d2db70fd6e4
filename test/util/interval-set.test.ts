import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { IntervalSet } from '../../src/util/interval-set.ts';

describe('IntervalSet', () => {
  it('gives the parts that were not in the set', () => {
    const set = new IntervalSet();
    expect(set.add(10, 20)).toEqual([{ start: 10, end: 20 }]);
    expect(set.add(30, 40)).toEqual([{ start: 30, end: 40 }]);
    expect(set.add(5, 45)).toEqual([
      { start: 5, end: 10 },
      { start: 20, end: 30 },
      { start: 40, end: 45 },
    ]);
    expect(set.add(5, 45)).toEqual([]);
    expect(set.add(7, 7)).toEqual([]);
    expect(set.count).toBe(1);
  });

  it('keeps what a set of the same numbers keeps', () => {
    const range = fc.tuple(fc.nat(60), fc.nat(12));
    fc.assert(
      fc.property(fc.array(range, { maxLength: 40 }), (ranges) => {
        const set = new IntervalSet();
        const twin = new Set<number>();
        for (const [start, length] of ranges) {
          const added = set.add(start, start + length).flatMap(({ start: from, end }) => {
            expect(from).toBeLessThan(end);
            return Array.from({ length: end - from }, (_, i) => from + i);
          });
          const wanted = Array.from({ length }, (_, i) => start + i).filter((n) => !twin.has(n));
          expect(added).toEqual(wanted);
          for (const n of wanted) twin.add(n);
        }
        const starts = [...twin].filter((n) => !twin.has(n - 1));
        expect(set.count).toBe(starts.length);
      }),
    );
  });
});
