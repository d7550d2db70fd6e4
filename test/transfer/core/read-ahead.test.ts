import { describe, expect, it } from 'vitest';
import { BLOCK_SIZE_BYTES, blockIndex } from '../../../src/image/block.ts';
import { SeededRandom } from '../../../src/sim/seeded-random.ts';
import type { BlobState } from '../../../src/transfer/core/core-types.ts';
import { ReadAhead } from '../../../src/transfer/core/read-ahead.ts';

const BLOCKS = 256;

function makeBlob(blocks = BLOCKS): BlobState<never> {
  const ref = { digest: 'sha256:any', sizeBytes: blocks * BLOCK_SIZE_BYTES };
  return { ref } as never;
}

/** The blocks that are brought in while these are read. */
function ahead(reads: readonly number[], blob = makeBlob()): number[] {
  const readAhead = new ReadAhead<never>();
  return reads.flatMap((index) => [...readAhead.note(blob, blockIndex(index))]);
}

const all = Array.from({ length: BLOCKS }, (_, i) => i);

describe('ReadAhead', () => {
  it('ReadAhead.note() brings in all behind the first four blocks of a reader, once', () => {
    expect(ahead(all)).toEqual(all.slice(4));
    const small = all.flatMap((index) => [index, index, index, index]);
    expect(ahead(small)).toEqual(all.slice(4));
  });

  it('ReadAhead.note() is at least half of 4 MiB ahead, and at most one and a half', () => {
    const readAhead = new ReadAhead<never>();
    const blob = makeBlob();
    let until = 0;
    for (const index of all) {
      for (const each of readAhead.note(blob, blockIndex(index))) until = each;
      if (index < 3) continue;
      expect(until).toBeGreaterThanOrEqual(Math.min(index + 8, BLOCKS - 1));
      expect(until).toBeLessThanOrEqual(index + 24);
    }
  });

  it('ReadAhead.note() follows four connections, and readers beside each other', () => {
    const shuffled = all.flatMap((_, i) => (i % 4 === 0 ? [i + 2, i, i + 3, i + 1] : []));
    expect(new Set(ahead(shuffled)).size).toBeGreaterThan(BLOCKS - 20);
    const two = all.slice(0, 128).flatMap((index) => [index, index + 128]);
    expect(new Set(ahead(two))).toEqual(new Set(all.slice(4)));
  });

  it('ReadAhead.note() brings in next to nothing for random reads', () => {
    const random = new SeededRandom('read ahead');
    const reads = Array.from({ length: 300 }, () => Math.floor(random.float() * BLOCKS));
    expect(ahead(reads).length).toBeLessThan(0.02 * reads.length);
  });

  it('ReadAhead.note() begins anew where a reader jumps, and ends with the blob', () => {
    expect(ahead([0, 1, 2, 3, 100, 101, 102, 103])).toEqual([
      ...all.slice(4, 20),
      ...all.slice(104, 120),
    ]);
    expect(ahead([0, 1, 2, 3, 4], makeBlob(5))).toEqual([4]);
  });
});
