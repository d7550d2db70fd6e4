import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BlockDigests, digestedLayers, digestsAnnotations } from '../../src/image/block-digests.ts';
import { BLOCK_SIZE_BYTES, blockIndex } from '../../src/image/block.ts';
import { parseDigest } from '../../src/image/digest.ts';
import type { Manifest } from '../../src/image/manifest.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import { defined } from '../../src/util/assert.ts';
import { toHex } from '../../src/util/bytes.ts';

const hash = new NodeHash();
const digest = defined(parseDigest(`sha256:${'0123456789abcdef'.repeat(4)}`), 'a digest');
const blob = { digest, sizeBytes: BLOCK_SIZE_BYTES + 5 };
const digests = new Uint8Array(64);
digests.fill(0x11, 0, 32);
digests.fill(0x22, 32);
const { bytes } = BlockDigests.make(blob, digests);
const layer = {
  blob,
  holder: { digest: defined(parseDigest(`sha256:${'f'.repeat(64)}`), 'a digest'), sizeBytes: 2048 },
  offset: 512,
  sizeBytes: bytes.length,
  root: new Uint8Array(hash.blake3(bytes)),
};

describe('BlockDigests', () => {
  it('BlockDigests.make() gives the golden bytes of docs/BLOCK_DIGESTS.md', () => {
    expect(toHex(bytes)).toBe(
      [
        '78796c656d646967010000000000040005000400000000000200000000000000',
        '0123456789abcdef'.repeat(4),
        '11'.repeat(32),
        '22'.repeat(32),
      ].join(''),
    );
  });

  it('BlockDigests.parse() gives back what was made', () => {
    const parsed = BlockDigests.parse(hash, layer, bytes);
    expect(parsed.matches(blockIndex(0), digests.subarray(0, 32))).toBe(true);
    expect(parsed.matches(blockIndex(1), digests.subarray(32))).toBe(true);
    expect(parsed.matches(blockIndex(1), digests.subarray(0, 32))).toBe(false);
    expect(parsed.matches(blockIndex(2), digests.subarray(32))).toBe(false);
  });

  it('BlockDigests.parse() refuses bytes that differ from the root in any byte', () => {
    fc.assert(
      fc.property(
        fc.nat({ max: bytes.length - 1 }),
        fc.integer({ min: 1, max: 255 }),
        (at, xor) => {
          const changed = bytes.slice();
          changed[at]! ^= xor;
          expect(() => BlockDigests.parse(hash, layer, changed)).toThrow(/their BLAKE3 is not/);
        },
      ),
    );
    expect(() => BlockDigests.parse(hash, layer, bytes.subarray(1))).toThrow(
      /bytes, but the layer needs/,
    );
  });

  it('BlockDigests.parse() refuses the digests of another layer or version, for any root', () => {
    for (const at of [0, 8, 12, 16, 24, 28, 32]) {
      const changed = bytes.slice();
      changed[at]! ^= 1;
      const own = { ...layer, root: hash.blake3(changed) };
      expect(() => BlockDigests.parse(hash, own, changed)).toThrow(/not of version 1 for/);
    }
  });
});

describe('digestedLayers()', () => {
  const holderDigest = defined(parseDigest(`sha256:${'f'.repeat(64)}`), 'a digest');
  const holder = { mediaType: 'm', digest: holderDigest, size: 2048, annotations: {} };

  function manifest(annotations: Record<string, string>): Manifest {
    const of = { mediaType: 'm', digest, size: blob.sizeBytes, annotations };
    return { mediaType: 'm', config: holder, layers: [of, holder], annotations: {} };
  }

  const said = digestsAnnotations(hash, BlockDigests.make(blob, digests), {
    holder: holderDigest,
    offset: 512,
  });

  it('reads the annotations of digestsAnnotations()', () => {
    expect(digestedLayers(manifest(said))).toEqual([layer]);
    expect(digestedLayers(manifest({}))).toEqual([]);
  });

  it.each([
    ['no root', { 'io.xylem.block-digests.root': '' }],
    ['a root of another kind', { 'io.xylem.block-digests.root': `sha256:${'0'.repeat(64)}` }],
    ['a holder that is not listed', { 'io.xylem.block-digests': `sha256:${'0'.repeat(64)}` }],
    ['no offset', { 'io.xylem.block-digests.offset': '' }],
    ['an offset past the end', { 'io.xylem.block-digests.offset': '1921' }],
    ['an offset that is no number', { 'io.xylem.block-digests.offset': '-1' }],
  ])('refuses %s', (_, change) => {
    const changed = manifest({ ...said, ...change });
    expect(() => digestedLayers(changed)).toThrow(/name no place for block digests/);
  });
});
