import { expect, it } from 'vitest';
import { benchVerify } from '../../bench/verify.ts';

it('benchVerify() runs at its smallest size', async () => {
  const rows = await benchVerify({ smoke: true });
  expect(rows.length).toBeGreaterThan(0);
  for (const row of rows) expect(row.value).toBeGreaterThanOrEqual(0);
});
