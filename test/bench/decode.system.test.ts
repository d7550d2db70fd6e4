import { expect, it } from 'vitest';
import { benchDecode } from '../../bench/decode.ts';
import { debianFault } from '../kit/debian-packages.ts';
import { describeWith, needs } from '../kit/requires.ts';

describeWith('benchDecode()', [needs.program('mke2fs'), debianFault], () => {
  it('measures gzip and both kinds of blocks at smoke size', async () => {
    const rows = await benchDecode({ smoke: true });
    expect(rows).toHaveLength(6);
    expect(rows.every((row) => row.value > 0)).toBe(true);
  }, 120_000);
});
