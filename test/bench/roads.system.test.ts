import { expect, it } from 'vitest';
import { benchRoads } from '../../bench/roads.ts';

it('benchRoads() runs at its smallest size, and the origin sends shared blobs once', async () => {
  const rows = await benchRoads({ smoke: true });
  expect(rows.length).toBeGreaterThan(0);
  const shared = rows.filter(({ what }) =>
    /^(registry URL|storage URL|opaque|unlisted)/.test(what),
  );
  expect(shared).toHaveLength(process.getuid?.() === 0 ? 8 : 6);
  for (const { note = '' } of shared) expect(note).toContain('origin bytes 1.000 x');
}, 120_000);
