import { describe, expect, it } from 'vitest';
import { BLOCK_SIZE_BYTES, blockIndex, type BlockIndex } from '../../../src/image/block.ts';
import { digestOfSha256 } from '../../../src/image/digest.ts';
import { cachedRange, copyOverlap, readByBlocks } from '../../../src/transfer/read/ranges.ts';

const block = new Uint8Array(BLOCK_SIZE_BYTES).fill(7);

describe('copyOverlap()', () => {
  it('copies the part of a block that lies in the range', () => {
    const target = new Uint8Array(8);
    copyOverlap(target, BLOCK_SIZE_BYTES - 4, block, blockIndex(0));
    copyOverlap(target, BLOCK_SIZE_BYTES - 4, block.subarray(0, 4), blockIndex(1));
    expect([...target]).toEqual(Array(8).fill(7));
  });

  it('throws when the block is too short for the range, and leaves no zeros to be sent', () => {
    const target = new Uint8Array(8);
    const copy = (): void => copyOverlap(target, 96, block.subarray(0, 100), blockIndex(0));
    expect(copy).toThrow(expect.objectContaining({ code: 'range' }));
  });
});

/** Three blocks, the last one short: each byte is the number of its block. */
const blob = {
  digest: digestOfSha256(new Uint8Array(32)),
  sizeBytes: 2 * BLOCK_SIZE_BYTES + 100,
};
const blockOf = (index: BlockIndex): Uint8Array =>
  new Uint8Array(Math.min(BLOCK_SIZE_BYTES, blob.sizeBytes - index * BLOCK_SIZE_BYTES)).fill(index);

/** Ranges, and the bytes of each block in them. */
const RANGES = [
  { offset: 10, length: 0, counts: [0, 0, 0] },
  { offset: 10, length: 5, counts: [5, 0, 0] },
  { offset: BLOCK_SIZE_BYTES - 1, length: 2, counts: [1, 1, 0] },
  { offset: 0, length: blob.sizeBytes, counts: [BLOCK_SIZE_BYTES, BLOCK_SIZE_BYTES, 100] },
];

function countsIn(bytes: Uint8Array | undefined): readonly number[] {
  const counts = [0, 0, 0];
  for (const value of bytes ?? []) counts[value] = (counts[value] ?? 0) + 1;
  return counts;
}

describe('readByBlocks()', () => {
  it.each(RANGES)('puts $offset+$length together', async ({ offset, length, counts }) => {
    const bytes = await readByBlocks({ offset, length }, async (index, use) => use(blockOf(index)));
    expect(bytes.length).toBe(length);
    expect(countsIn(bytes)).toEqual(counts);
  });

  it('rejects when a block is too short, or cannot be read', async () => {
    const range = { offset: 0, length: BLOCK_SIZE_BYTES + 1 };
    const short = readByBlocks(range, async (_, use) => use(block.subarray(1)));
    await expect(short).rejects.toMatchObject({ code: 'range' });
    const failed = readByBlocks(range, () => Promise.reject(new Error('no block')));
    await expect(failed).rejects.toThrow('no block');
  });
});

describe('cachedRange()', () => {
  it.each(RANGES)('gives $offset+$length out of memory', ({ offset, length, counts }) => {
    const bytes = cachedRange(blob, { offset, length }, blockOf);
    expect(bytes?.length).toBe(length);
    expect(countsIn(bytes)).toEqual(counts);
  });

  it('gives a view of the only block, and nothing when a block is missing', () => {
    expect(cachedRange(blob, { offset: 10, length: 5 }, () => block)?.buffer).toBe(block.buffer);
    const first = (index: BlockIndex) => (index === 0 ? block : undefined);
    const range = { offset: 0, length: BLOCK_SIZE_BYTES + 1 };
    expect(cachedRange(blob, range, first)).toBeUndefined();
    expect(cachedRange(blob, { offset: 0, length: 1 }, () => undefined)).toBeUndefined();
  });

  it('throws when the range does not lie in the blob', () => {
    const read = (): unknown => cachedRange(blob, { offset: 1, length: blob.sizeBytes }, blockOf);
    expect(read).toThrow(expect.objectContaining({ code: 'range' }));
  });
});
