import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SmallSet } from '../../src/util/small-set.ts';

describe('SmallSet', () => {
  it('SmallSet behaves as a Set', () => {
    const step = fc.tuple(fc.constantFrom('add', 'add', 'delete', 'delete', 'clear'), fc.nat(3));
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        const small = new SmallSet<number>();
        const model = new Set<number>();
        for (const [what, value] of steps) {
          if (what === 'add') {
            small.add(value);
            model.add(value);
          } else if (what === 'delete') {
            expect(small.delete(value)).toBe(model.delete(value));
          } else {
            small.clear();
            model.clear();
          }
          expect(small.size).toBe(model.size);
          expect([...small]).toEqual([...model]);
          for (let other = 0; other < 4; other++) expect(small.has(other)).toBe(model.has(other));
        }
      }),
    );
  });

  it('SmallSet goes on with an iteration when members are deleted', () => {
    for (const count of [1, 2, 5]) {
      const small = new SmallSet<number>();
      for (let value = 0; value < count; value++) small.add(value);
      const seen: number[] = [];
      for (const value of small) {
        seen.push(value);
        small.delete(value);
      }
      expect(seen).toHaveLength(count);
      expect(small.size).toBe(0);
    }
  });
});
