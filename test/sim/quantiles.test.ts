import { describe, expect, it } from 'vitest';
import { spreadOf } from '../../src/sim/quantiles.ts';

describe('spreadOf', () => {
  it('spreadOf() takes nearest ranks', () => {
    const spread = spreadOf(Array.from({ length: 1000 }, (_, i) => 1000 - i));
    expect(spread).toEqual({ count: 1000, p50: 500, p99: 990, p999: 999, max: 1000 });
    expect(spreadOf([]).p999).toBe(0);
  });
});
