import { expect, it } from 'vitest';
import { benchBlobs } from '../../bench/blobs.ts';

it('benchBlobs() runs at its smallest size, and no blob is refused', async () => {
  const rows = await benchBlobs({ smoke: true });
  expect(rows.length).toBeGreaterThan(0);
  expect(rows.at(-1)?.note).toMatch(/; 0 refused$/);
}, 120_000);
