import { describe, expect, it } from 'vitest';
import { SeededRandom } from '../../src/sim/seeded-random.ts';

describe('SeededRandom', () => {
  it('SeededRandom gives the same numbers for the same name, and different ones otherwise', () => {
    const draw = (name: string): number[] => {
      const random = new SeededRandom(name);
      return Array.from({ length: 5 }, () => random.float());
    };
    expect(draw('a')).toEqual(draw('a'));
    expect(draw('a')).not.toEqual(draw('b'));
  });

  it('SeededRandom.split() does not depend on draws from its origin', () => {
    const one = new SeededRandom('a');
    const other = new SeededRandom('a');
    other.float();
    expect(one.split('x').float()).toBe(other.split('x').float());
  });

  it('SeededRandom.below() is even', () => {
    const random = new SeededRandom('even');
    const counts = [0, 0, 0, 0];
    for (let i = 0; i < 40_000; i++) counts[random.below(4)]!++;
    for (const count of counts) expect(Math.abs(count - 10_000)).toBeLessThan(400);
  });
});
