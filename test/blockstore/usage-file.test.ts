import { describe, expect, it } from 'vitest';
import { decodeUsage, encodeUsage } from '../../src/blockstore/usage-file.ts';
import { NodeCodec } from '../../src/runtime/node/codec.ts';
import { toHex } from '../../src/util/bytes.ts';
import { testBlob } from '../kit/blocks.ts';

const codec = new NodeCodec();
const { digest } = testBlob(0xab, 1);
const uses = [
  { digest, index: 3, lastUseMs: 1_700_000_000_000, proven: true },
  { digest, index: 70, lastUseMs: 0, proven: false },
];

describe('usage file', () => {
  it('encodeUsage() gives the golden bytes', () => {
    expect(toHex(encodeUsage(codec, uses))).toBe(
      [
        '78796c656d757365 03000000 02000000',
        `ab${'e7'.repeat(31)} 03000000 00f15365 01000000`,
        `ab${'e7'.repeat(31)} 46000000 00000000 00000000`,
        '3b949b57',
      ]
        .join('')
        .replaceAll(' ', ''),
    );
  });

  it('decodeUsage() gives back the uses', () => {
    expect(decodeUsage(codec, encodeUsage(codec, uses))).toEqual(uses);
    expect(decodeUsage(codec, encodeUsage(codec, []))).toEqual([]);
  });

  it('decodeUsage() refuses a file with any byte changed or missing', () => {
    const good = encodeUsage(codec, uses);
    for (let i = 0; i < good.length; i++) {
      const bad = good.slice();
      bad[i]! ^= 0x20;
      expect(decodeUsage(codec, bad)).toBeUndefined();
      expect(decodeUsage(codec, good.subarray(0, i))).toBeUndefined();
    }
  });
});
