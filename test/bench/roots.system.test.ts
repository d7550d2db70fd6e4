import { expect, it } from 'vitest';
import { benchRoots } from '../../bench/roots.ts';

it('benchRoots() runs at its smallest size, and no read fails while a root stands still', async () => {
  const rows = await benchRoots({ smoke: true });
  const failed = rows.filter(({ what }) => what.endsWith('failed'));
  expect(failed).toHaveLength(5);
  for (const { value } of failed) expect(value).toBe(0);
}, 120_000);
