import { expect, it } from 'vitest';
import { benchConvert } from '../../bench/convert.ts';
import { debianFault } from '../kit/debian-packages.ts';
import { describeWith, needs } from '../kit/requires.ts';

const PROGRAMS = ['docker-registry', 'skopeo', 'mke2fs', 'gzip'].map(needs.program);

describeWith('benchConvert()', [...PROGRAMS, debianFault], () => {
  it('measures every case at smoke size, and twice the same digests', async () => {
    const rows = await benchConvert({ smoke: true });
    expect(rows.every((row) => row.value > 0)).toBe(true);
    expect(rows.find(({ what }) => what === 'same digests')).toMatchObject({ value: 3 });
    expect(rows.some(({ what }) => what === 'one more layer, 1 reused')).toBe(true);
    const checks = rows.filter(({ what }) => what.endsWith(', checked'));
    expect(checks.map(({ note }) => note?.slice(0, 14))).toEqual(Array(3).fill('0 differences '));
  }, 180_000);
});
