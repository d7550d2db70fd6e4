import { expect, it } from 'vitest';
import { benchWorkloads, WORKLOAD_NEEDS } from '../../bench/workloads.ts';
import { describeWith } from '../kit/requires.ts';

describeWith('benchWorkloads()', WORKLOAD_NEEDS, () => {
  it('starts a program at smoke size', async () => {
    const rows = await benchWorkloads({ smoke: true });
    expect(rows).toHaveLength(6);
    expect(rows.every((row) => row.value > 0)).toBe(true);
  }, 180_000);
});
