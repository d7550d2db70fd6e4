import { expect, it } from 'vitest';
import { benchNbd } from '../../bench/nbd.ts';
import { describeWith, needs } from '../kit/requires.ts';

describeWith('benchNbd()', ['fio', 'nbdcopy', 'nbdkit'].map(needs.program), () => {
  it('measures every case at smoke size', async () => {
    const rows = await benchNbd({ smoke: true });
    expect(rows).toHaveLength(8);
    expect(rows.every((row) => row.value > 0)).toBe(true);
  });
});
