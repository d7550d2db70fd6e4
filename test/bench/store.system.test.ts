import { expect, it } from 'vitest';
import { benchStore } from '../../bench/store.ts';

it('benchStore() runs at its smallest size', async () => {
  const rows = await benchStore({ smoke: true });
  expect(rows.length).toBeGreaterThan(0);
  for (const row of rows) expect(row.value).toBeGreaterThan(0);
});
