import { expect, it } from 'vitest';
import { benchContainers, CONTAINER_NEEDS } from '../../bench/containers.ts';
import { describeWith } from '../kit/requires.ts';

describeWith('benchContainers()', CONTAINER_NEEDS, () => {
  it('starts a program at smoke size', async () => {
    const rows = await benchContainers({ smoke: true });
    expect(rows).toHaveLength(10);
    expect(rows.every((row) => row.value > 0)).toBe(true);
  }, 180_000);
});
