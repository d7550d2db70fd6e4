import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { WriteMap, ZERO_MOFFSET, type WriteRow } from '../../src/image/write-map.ts';
import { SeededRandom } from '../../src/sim/seeded-random.ts';

const NOTHING = -1;

/** The sector of the data of each sector in [offset, end); -1 where no row is. */
function sectorsOf(map: WriteMap, offset: number, end: number): number[] {
  const sectors = new Array<number>(end - offset).fill(NOTHING);
  let last = offset;
  map.visit(offset, end, (row) => {
    expect(row.offset).toBeGreaterThanOrEqual(last);
    last = row.offset + row.length;
    expect(last).toBeLessThanOrEqual(end);
    paint(sectors, { ...row, offset: row.offset - offset });
  });
  return sectors;
}

function paint(sectors: number[], { offset, length, moffset }: WriteRow): void {
  for (let i = 0; i < length; i++) {
    sectors[offset + i] = moffset === ZERO_MOFFSET ? ZERO_MOFFSET : moffset + i;
  }
}

describe('WriteMap', () => {
  it.each([
    ['few rows', 60, 40, 12],
    ['many chunks', 6000, 20_000, 30],
  ])('shows in every sector the latest write: %s', (_, sectorCount, writeCount, lengthMax) => {
    fc.assert(
      fc.property(fc.string(), (seed) => {
        const random = new SeededRandom(seed);
        const map = new WriteMap();
        const expected = new Array<number>(sectorCount).fill(NOTHING);
        let end = 8;
        for (let i = 0; i < writeCount; i++) {
          // Mostly single sectors, so that the map fills; now and then a range over many chunks.
          const wish = random.below(2000) === 0 ? sectorCount : 1 + random.below(lengthMax) ** 0.3;
          const offset = random.below(sectorCount);
          const length = Math.min(Math.floor(wish), sectorCount - offset);
          const isZero = random.below(5) === 0;
          const row = { offset, length, moffset: isZero ? ZERO_MOFFSET : end };
          if (!isZero) end += length;
          map.put(row);
          paint(expected, row);
        }
        expect(sectorsOf(map, 0, sectorCount)).toEqual(expected);
        const from = random.below(sectorCount);
        const to = from + random.below(sectorCount - from);
        expect(sectorsOf(map, from, to)).toEqual(expected.slice(from, to));
        let rows = 0;
        map.visit(0, sectorCount, () => rows++);
        expect(map.count).toBe(rows);
        expect(map.build().count).toBeLessThanOrEqual(rows);
      }),
      { numRuns: writeCount > 1000 ? 5 : 200 },
    );
  });

  it('put() continues the row before', () => {
    const map = new WriteMap();
    for (let i = 0; i < 100; i++) map.put({ offset: 8 * i, length: 8, moffset: 8 + 8 * i });
    expect(map.count).toBe(1);
    for (let i = 0; i < 100; i++) {
      map.put({ offset: 2000 + 8 * i, length: 8, moffset: ZERO_MOFFSET });
    }
    expect(map.count).toBe(2);
  });
});
