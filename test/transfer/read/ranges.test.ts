import { describe, expect, it } from 'vitest';
import { BLOCK_SIZE_BYTES, blockIndex } from '../../../src/image/block.ts';
import { copyOverlap } from '../../../src/transfer/read/ranges.ts';

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
