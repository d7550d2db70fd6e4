import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { TokenBucket } from '../../src/util/token-bucket.ts';

/** Steps in time, each with the amount taken after it. */
const steps = fc.array(
  fc.record({
    waitMs: fc.integer({ min: 0, max: 5_000 }),
    amount: fc.integer({ min: 1, max: 100 }),
  }),
  { maxLength: 100 },
);
const bucket = fc.record({
  perSecond: fc.integer({ min: 1, max: 10_000 }),
  burst: fc.integer({ min: 100, max: 10_000 }),
});

describe('TokenBucket.take()', () => {
  it('lets through at most the burst and the rate, over any time', () => {
    fc.assert(
      fc.property(bucket, steps, (init, asked) => {
        const tokens = new TokenBucket(init);
        const taken: { atMs: number; amount: number }[] = [];
        let nowMs = 0;
        for (const { waitMs, amount } of asked) {
          nowMs += waitMs;
          if (tokens.take(amount, nowMs)) taken.push({ atMs: nowMs, amount });
        }
        for (const [i, { atMs: fromMs }] of taken.entries()) {
          let sum = 0;
          for (const { atMs, amount } of taken.slice(i)) {
            sum += amount;
            const bound = init.burst + ((atMs - fromMs) * init.perSecond) / 1000;
            expect(sum).toBeLessThanOrEqual(bound + 1e-6);
          }
        }
      }),
    );
  });

  it('takes no token of the reserve', () => {
    const tokens = new TokenBucket({ perSecond: 1, burst: 10 });
    expect(tokens.take(4, 0, 5)).toBe(true);
    expect(tokens.take(4, 0, 5)).toBe(false);
    expect(tokens.take(4, 0)).toBe(true);
  });
});

describe('TokenBucket.readyMs()', () => {
  it('names the time at which the amount is available, or slightly later', () => {
    fc.assert(
      fc.property(bucket, steps, fc.integer({ min: 0, max: 20_000 }), (init, asked, reserve) => {
        const tokens = new TokenBucket(init);
        let nowMs = 0;
        for (const { waitMs, amount } of asked) {
          nowMs += waitMs;
          const readyMs = tokens.readyMs(amount, nowMs, reserve);
          if (readyMs === nowMs) {
            expect(tokens.take(amount, nowMs, reserve)).toBe(true);
            continue;
          }
          expect(tokens.take(amount, nowMs, reserve)).toBe(false);
          if (readyMs - nowMs > 2) expect(tokens.take(amount, readyMs - 2, reserve)).toBe(false);
          // Rounding may name a later millisecond, never the same one again.
          expect(tokens.take(amount, readyMs + 1, reserve)).toBe(true);
          nowMs = readyMs + 1;
        }
      }),
    );
  });
});
