import { expect, it } from 'vitest';
import { benchOwnWay } from '../../bench/own-way.ts';

it('benchOwnWay() runs at its smallest size', async () => {
  const rows = await benchOwnWay({ smoke: true });
  expect(rows.length).toBe(8);
  for (const row of rows) expect(row.value).toBeGreaterThan(0);
}, 120_000);
