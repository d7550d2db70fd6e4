import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Scatter } from '../../src/util/scatter.ts';

describe('Scatter', () => {
  it('Scatter.write() fills the buffers in order from any pieces, and each byte once', () => {
    const lengths = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 6 });
    const starts = fc.array(fc.tuple(fc.nat(), fc.nat(20)), { maxLength: 40 });
    fc.assert(
      fc.property(lengths, starts, (sizes, pieces) => {
        const targets = sizes.map((size) => new Uint8Array(size));
        const full: number[] = [];
        const scatter = new Scatter(targets, (target) => full.push(target));
        const run = Uint8Array.from({ length: scatter.length }, (_, i) => i + 1);
        for (const [from, length] of pieces) {
          const at = from % (scatter.filled + 1);
          const before = scatter.filled;
          scatter.write(at, run.subarray(at, at + length));
          expect(scatter.filled).toBe(Math.min(run.length, Math.max(before, at + length)));
        }
        scatter.write(0, run);
        expect(scatter.isFull).toBe(true);
        expect(Buffer.concat(targets).equals(run)).toBe(true);
        expect(full).toEqual(targets.map((_, i) => i));
      }),
    );
  });

  it('Scatter.write() leaves alone what is full, whatever comes for it again', () => {
    const first = new Uint8Array(2);
    const scatter = new Scatter([first, new Uint8Array(2)]);
    scatter.write(0, Uint8Array.of(1, 2, 3));
    scatter.write(0, Uint8Array.of(7, 7, 7, 4));
    expect([...first]).toEqual([1, 2]);
    expect(scatter.isFull).toBe(true);
  });

  it('Scatter.write() refuses a gap', () => {
    const scatter = Scatter.of(new Uint8Array(4));
    expect(() => scatter.write(1, Uint8Array.of(1))).toThrow('gap');
  });
});
