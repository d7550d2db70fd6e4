import { describe, expect, it } from 'vitest';
import { SystemRandom } from '../../../src/runtime/node/random.ts';

describe('SystemRandom', () => {
  const random = new SystemRandom();

  it('SystemRandom.float() stays in [0, 1) and covers it', () => {
    const values = Array.from({ length: 10_000 }, () => random.float());
    expect(values.every((value) => value >= 0 && value < 1)).toBe(true);
    // Each tenth misses all 10,000 draws with probability 0.9^10000: never.
    const tenths = new Set(values.map((value) => Math.floor(value * 10)));
    expect(tenths.size).toBe(10);
  });

  it('SystemRandom.below() hits every value under the limit and none beyond', () => {
    const values = new Set(Array.from({ length: 2_000 }, () => random.below(7)));
    expect([...values].sort()).toEqual([0, 1, 2, 3, 4, 5, 6]);
    expect(random.below(1)).toBe(0);
  });

  it('SystemRandom.below() refuses invalid limits', () => {
    for (const limit of [0, -1, 1.5, Number.NaN]) expect(() => random.below(limit)).toThrow();
  });

  it('SystemRandom.bytes() gives the requested count of fresh bytes', () => {
    expect(random.bytes(0).length).toBe(0);
    const a = random.bytes(32);
    expect(a.length).toBe(32);
    expect(a).not.toEqual(random.bytes(32));
  });
});
