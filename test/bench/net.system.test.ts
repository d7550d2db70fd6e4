import { expect, it } from 'vitest';
import { benchJoin } from '../../bench/join.ts';
import { benchNet } from '../../bench/net.ts';

it('benchNet() measures every row at smoke size', async () => {
  const rows = await benchNet({ smoke: true });
  expect(rows).toHaveLength(13);
  for (const { value } of rows) expect(value).toBeGreaterThan(0);
});

it('benchJoin() measures every row at smoke size', async () => {
  const rows = await benchJoin({ smoke: true });
  expect(rows).toHaveLength(5);
  for (const { value } of rows) expect(value).toBeGreaterThan(0);
});
