import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BLOCK_SIZE_BYTES } from '../../../src/image/block.ts';
import { Throttle } from '../../../src/transfer/core/throttle.ts';

const MIB = 2 ** 20;
const rates = fc.integer({ min: MIB, max: 1024 * MIB });
const passes = fc.array(
  fc.record({
    waitMs: fc.integer({ min: 0, max: 300 }),
    kind: fc.constantFrom('demand' as const, 'prefetch' as const),
    lengthBytes: fc.integer({ min: 1, max: BLOCK_SIZE_BYTES }),
  }),
  { maxLength: 200 },
);

describe('Throttle.admit()', () => {
  it('lets a demand read pass wherever it lets a prefetch pass, and the next one too', () => {
    fc.assert(
      fc.property(rates, passes, (bytesPerSecond, asked) => {
        const throttle = new Throttle({ bytesPerSecond });
        let nowMs = 0;
        for (const { waitMs, kind, lengthBytes } of asked) {
          nowMs += waitMs;
          const isAdmitted = throttle.admit(kind, lengthBytes, nowMs);
          if (kind === 'demand' || !isAdmitted) continue;
          expect(throttle.admit('demand', BLOCK_SIZE_BYTES, nowMs)).toBe(true);
        }
      }),
    );
  });

  it('keeps to the rate however much of which kind is asked for', () => {
    fc.assert(
      fc.property(rates, passes, (bytesPerSecond, asked) => {
        const throttle = new Throttle({ bytesPerSecond });
        const burst = Math.max(4 * BLOCK_SIZE_BYTES, bytesPerSecond / 4);
        let [nowMs, sum] = [0, 0];
        for (const { waitMs, kind, lengthBytes } of asked) {
          nowMs += waitMs;
          if (throttle.admit(kind, lengthBytes, nowMs)) sum += lengthBytes;
          expect(sum).toBeLessThanOrEqual(burst + (nowMs * bytesPerSecond) / 1000 + 1e-3);
        }
      }),
    );
  });

  it('counts the time in which something was held back, not that after it was withdrawn', () => {
    const throttle = new Throttle({ bytesPerSecond: MIB });
    for (let i = 0; i < 4; i++) expect(throttle.admit('demand', BLOCK_SIZE_BYTES, 0)).toBe(true);
    expect(throttle.admit('demand', BLOCK_SIZE_BYTES, 0)).toBe(false);
    expect(throttle.retryMs).toBe(250);
    expect(throttle.admit('demand', BLOCK_SIZE_BYTES, 60_000)).toBe(true);
    expect(throttle.heldMs).toBe(250);
  });
});
