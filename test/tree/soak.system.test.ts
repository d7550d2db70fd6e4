import { expect, test } from 'vitest';
import { soak } from './soak.ts';

test.each([
  { seed: 1, steps: 6_000, hosts: 24, roots: 2, zones: 3 },
  { seed: 2, steps: 6_000, hosts: 8, roots: 1, zones: 1 },
  { seed: 3, steps: 4_000, hosts: 30, roots: 3, zones: 5, weak: 0.4 },
  { seed: 4, steps: 4_000, hosts: 40, roots: 1, zones: 4, faults: false },
  { seed: 5, steps: 4_000, hosts: 30, roots: 2, zones: 2, colours: 4 },
  { seed: 6, steps: 4_000, hosts: 40, roots: 1, zones: 3, colours: 4, faults: false },
])(
  'Topology and Membership keep their promises at every step and heal: %o',
  (init) => {
    const result = soak(init);
    expect(result.violations).toEqual([]);
    // Enough messages for the promises to be at stake.
    expect(result.messages).toBeGreaterThan(1_000);
  },
  60_000,
);

test('Topology and Membership do the same for the same seed', () => {
  const init = { seed: 9, steps: 1_500, hosts: 12 };
  expect(soak(init)).toEqual(soak(init));
}, 60_000);
