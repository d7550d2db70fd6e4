import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { encodeIndex, parseIndex, parseIndexLog } from '../../src/image/lsmt-index.ts';
import {
  overlayAll,
  SegmentMapBuilder,
  ZERO_LAYER,
  type SegmentMap,
} from '../../src/image/segment-map.ts';

/** Sectors of the small devices of these tests. */
const SECTORS = 200;

interface Row {
  gap: number;
  length: number;
  moffset: number;
  zeroed: boolean;
}

const rowsArbitrary = fc.array(
  fc.record({
    gap: fc.nat(6),
    length: fc.integer({ min: 1, max: 12 }),
    moffset: fc.integer({ min: 8, max: 500 }),
    zeroed: fc.boolean(),
  }),
  { maxLength: 12 },
);

function mapOf(rows: readonly Row[], layer: number): SegmentMap {
  const builder = new SegmentMapBuilder();
  let at = 0;
  for (const row of rows) {
    at += row.gap;
    const place = row.zeroed ? { moffset: 0, layer: ZERO_LAYER } : { moffset: row.moffset, layer };
    builder.push(at, row.length, place);
    at += row.length;
  }
  return builder.build();
}

/** What each sector holds, by brute force. */
function paint(sectors: string[], map: SegmentMap): void {
  for (let row = 0; row < map.count; row++) {
    for (let i = 0; i < (map.lengths[row] ?? 0); i++) {
      const zero = map.layers[row] === ZERO_LAYER;
      const at = (map.offsets[row] ?? 0) + i;
      sectors[at] = zero ? 'zero' : `${map.layers[row]}:${(map.moffsets[row] ?? 0) + i}`;
    }
  }
}

describe('SegmentMap', () => {
  it('overlayAll() shows in every sector what the topmost map has there', () => {
    fc.assert(
      fc.property(fc.array(rowsArbitrary, { maxLength: 7 }), (layers) => {
        const maps = layers.map((rows, i) => mapOf(rows, i));
        const expected: string[] = new Array<string>(SECTORS + 50).fill('none');
        for (const map of maps) paint(expected, map);
        const merged = overlayAll(maps);
        const found: string[] = new Array<string>(SECTORS + 50).fill('none');
        paint(found, merged);
        expect(found).toEqual(expected);
        for (let row = 1; row < merged.count; row++) {
          expect(merged.offsets[row]).toBeGreaterThanOrEqual(merged.endOf(row - 1));
        }
      }),
    );
  });

  it('rowAfter() finds the first row that ends after a sector', () => {
    fc.assert(
      fc.property(rowsArbitrary, fc.nat(SECTORS), (rows, sector) => {
        const map = mapOf(rows, 0);
        let expected = 0;
        while (expected < map.count && map.endOf(expected) <= sector) expected++;
        expect(map.rowAfter(sector)).toBe(expected);
      }),
    );
  });

  it('numbered() leaves zeros alone', () => {
    const rows = [
      { gap: 0, length: 2, moffset: 8, zeroed: false },
      { gap: 1, length: 2, moffset: 0, zeroed: true },
    ];
    expect([...mapOf(rows, 0).numbered(254).layers]).toEqual([254, ZERO_LAYER]);
    expect(() => mapOf(rows, 0).numbered(255)).toThrow('must be below 255');
  });
});

describe('the LSMT index', () => {
  const limits = { virtualSectors: 2 ** 31, dataEndSectors: 2 ** 32 };

  it('parseIndex() reads what encodeIndex() wrote, cut and padded', () => {
    fc.assert(
      fc.property(rowsArbitrary, fc.integer({ min: 1, max: 5000 }), (rows, factor) => {
        const long = rows.map((row) => ({ ...row, length: row.length * factor }));
        const map = mapOf(long, 0);
        const bytes = encodeIndex(map);
        expect(bytes.length % 4096).toBe(0);
        expect(parseIndex(bytes, limits)).toEqual(map);
        expect(parseIndexLog(bytes, limits)).toEqual(map);
      }),
    );
  });

  it.each([
    [
      'an overlap',
      [
        [0, 8, 8],
        [7, 8, 16],
      ],
      'the entry before ends at',
    ],
    [
      'a wrong order',
      [
        [100, 8, 8],
        [50, 8, 16],
      ],
      'the entry before ends at',
    ],
    ['no length', [[0, 0, 8]], 'must cover at least a sector'],
    ['an end after the device', [[2 ** 31 - 4, 8, 8]], 'the block device ends'],
    ['data in the header', [[0, 8, 7]], "must lie in the layer's data"],
    ['data after the end', [[0, 8, 2 ** 32 - 4]], "must lie in the layer's data"],
  ])('parseIndex() rejects %s', (_, entries, text) => {
    const bytes = new Uint8Array(entries.length * 16);
    const view = new DataView(bytes.buffer);
    entries.forEach(([offset = 0, length = 0, moffset = 0], i) => {
      view.setBigUint64(i * 16, BigInt(offset) | (BigInt(length) << 50n), true);
      view.setBigUint64(i * 16 + 8, BigInt(moffset), true);
    });
    expect(() => parseIndex(bytes, limits)).toThrow(text);
  });
});
