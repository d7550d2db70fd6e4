import { expect, it } from 'vitest';
import { benchLimits } from '../../bench/limits.ts';

it('benchLimits() runs at its smallest size', async () => {
  const rows = await benchLimits({ smoke: true });
  expect(rows.length).toBe(3);
  for (const row of rows) expect(row.value).toBeGreaterThan(0);
}, 120_000);
