import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BitSet } from '../../src/util/bit-set.ts';

describe('BitSet', () => {
  it('BitSet behaves as a Set of integers', () => {
    const steps = fc.array(fc.tuple(fc.boolean(), fc.nat(99)), { maxLength: 300 });
    fc.assert(
      fc.property(steps, (changes) => {
        const bits = new BitSet(100);
        const model = new Set<number>();
        for (const [adds, value] of changes) {
          if (adds) {
            expect(bits.add(value)).toBe(!model.has(value));
            model.add(value);
          } else {
            expect(bits.delete(value)).toBe(model.delete(value));
          }
          expect(bits.count).toBe(model.size);
        }
        expect([...bits.values()]).toEqual([...model].sort((a, b) => a - b));
        for (let value = 0; value < 100; value++) expect(bits.has(value)).toBe(model.has(value));
      }),
    );
  });

  it('BitSet.add() refuses a value outside the range, and BitSet.has() is false', () => {
    const bits = new BitSet(33);
    expect(bits.has(33)).toBe(false);
    expect(bits.has(64)).toBe(false);
    for (const value of [-1, 33, 1.5]) expect(() => bits.add(value)).toThrow('outside');
  });
});
