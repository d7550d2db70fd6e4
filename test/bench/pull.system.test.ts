import { expect, it } from 'vitest';
import { benchPull, PULL_NEEDS } from '../../bench/pull.ts';
import { describeWith } from '../kit/requires.ts';

describeWith('benchPull()', PULL_NEEDS, () => {
  it('pulls an image with every client at smoke size', async () => {
    const rows = await benchPull({ smoke: true });
    expect(rows).toHaveLength(4);
    for (const { value, note } of rows) {
      expect(value).toBeGreaterThan(0);
      expect(note).toContain('met: all in the stores');
    }
  }, 180_000);
});
