import { expect, it } from 'vitest';
import { benchDevice } from '../../bench/device.ts';
import { describeWith, needs } from '../kit/requires.ts';

const NEEDS = [needs.root, needs.fuse, needs.program('mke2fs'), needs.program('fio')];

describeWith('benchDevice()', NEEDS, () => {
  it('measures every case at smoke size', async () => {
    const rows = await benchDevice({ smoke: true });
    expect(rows).toHaveLength(40);
    expect(rows.every((row) => row.value > 0)).toBe(true);
  });
});
