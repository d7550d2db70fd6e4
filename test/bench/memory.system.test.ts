import { expect, it } from 'vitest';
import { benchMemory } from '../../bench/memory.ts';

it('benchMemory() runs at its smallest size', async () => {
  const rows = await benchMemory({ smoke: true });
  expect(rows.length).toBeGreaterThan(0);
  for (const row of rows) expect(row.value).toBeGreaterThan(0);
}, 120_000);
