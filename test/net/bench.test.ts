import { expect, it } from 'vitest';
import { benchNet } from '../../bench/net.ts';

it('benchNet() measures every row at smoke size', async () => {
  const rows = await benchNet({ smoke: true });
  expect(rows).toHaveLength(13);
  for (const { value } of rows) expect(value).toBeGreaterThan(0);
});
