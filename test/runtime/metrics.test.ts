import { describe, expect, it } from 'vitest';
import { Tally } from '../../src/runtime/metrics.ts';

describe('Tally', () => {
  it('Tally counts in its counter, and keeps sums by the values of one label', () => {
    const counted: unknown[] = [];
    const tally = new Tally({ inc: (...args) => counted.push(args) }, 'source');
    expect([tally.total, tally.sums()]).toEqual([0, {}]);
    tally.inc({ source: 'disk', kind: 'demand' }, 5);
    tally.inc({ source: 'disk', kind: 'prefetch' }, 2);
    tally.inc({ source: 'parent', kind: 'demand' });
    expect(tally.sums()).toEqual({ disk: 7, parent: 1 });
    expect(tally.total).toBe(8);
    expect(counted).toEqual([
      [{ source: 'disk', kind: 'demand' }, 5],
      [{ source: 'disk', kind: 'prefetch' }, 2],
      [{ source: 'parent', kind: 'demand' }, 1],
    ]);
  });
});
