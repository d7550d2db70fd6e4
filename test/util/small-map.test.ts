import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SmallMap } from '../../src/util/small-map.ts';

describe('SmallMap', () => {
  it('SmallMap behaves as a Map', () => {
    const step = fc.tuple(fc.constantFrom('set', 'set', 'delete', 'delete', 'clear'), fc.nat(3));
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        const small = new SmallMap<number, number | undefined>();
        const model = new Map<number, number | undefined>();
        for (const [i, [what, key]] of steps.entries()) {
          const value = i % 3 === 0 ? undefined : i;
          if (what === 'set') {
            small.set(key, value);
            model.set(key, value);
          } else if (what === 'delete') {
            expect(small.delete(key)).toBe(model.delete(key));
          } else {
            small.clear();
            model.clear();
          }
          expect(small.size).toBe(model.size);
          expect([...small]).toEqual([...model]);
          expect([...small.keys()]).toEqual([...model.keys()]);
          expect([...small.values()]).toEqual([...model.values()]);
          for (let other = 0; other < 4; other++) {
            expect(small.has(other)).toBe(model.has(other));
            expect(small.get(other)).toBe(model.get(other));
          }
        }
      }),
    );
  });

  it('SmallMap goes on with an iteration when entries are deleted', () => {
    for (const count of [1, 2, 5]) {
      const small = new SmallMap<number, string>();
      for (let key = 0; key < count; key++) small.set(key, `${key}`);
      const seen: number[] = [];
      for (const [key] of small) {
        seen.push(key);
        small.delete(key);
      }
      expect(seen).toHaveLength(count);
      expect(small.size).toBe(0);
    }
  });
});
