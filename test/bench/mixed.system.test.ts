import { expect, it } from 'vitest';
import { benchMixed } from '../../bench/mixed.ts';

it('benchMixed() runs at its smallest size', async () => {
  const rows = await benchMixed({ smoke: true });
  expect(rows).toHaveLength(1);
  for (const row of rows) expect(row.value).toBeGreaterThan(0);
}, 120_000);
