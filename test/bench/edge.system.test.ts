import { expect, it } from 'vitest';
import { benchEdge } from '../../bench/edge.ts';

it('benchEdge() runs at its smallest size', async () => {
  const rows = await benchEdge({ smoke: true });
  expect(rows.length).toBeGreaterThan(0);
  for (const row of rows) expect(row.value).toBeGreaterThan(0);
  const ratios = rows.filter(({ what }) => what.endsWith('origin bytes'));
  for (const { value } of ratios) expect(value).toBeLessThanOrEqual(1.05);
}, 120_000);
