import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  BLOCK_DIGESTS_ANNOTATION,
  BLOCK_DIGESTS_ROOT_ANNOTATION,
  BlockDigests,
  blockDigestsAnnotations,
  digestBlobSizeBytes,
  digestedLayer,
} from '../../src/image/block-digests.ts';
import { BLOCK_SIZE_BYTES, blockIndex } from '../../src/image/block.ts';
import { parseDigest } from '../../src/image/digest.ts';
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
const digestBlob = { digest, sizeBytes: digestBlobSizeBytes(blob.sizeBytes) };
const layer = { blob, digestBlob, root: new Uint8Array(hash.blake3(bytes)) };

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

  it('BlockDigests.parse() refuses bytes of another root, whichever byte differs', () => {
    fc.assert(
      fc.property(
        fc.nat({ max: bytes.length - 1 }),
        fc.integer({ min: 1, max: 255 }),
        (at, xor) => {
          const changed = bytes.slice();
          changed[at]! ^= xor;
          expect(() => BlockDigests.parse(hash, layer, changed)).toThrow(/its BLAKE3 is not/);
        },
      ),
    );
    expect(() => BlockDigests.parse(hash, layer, bytes.subarray(1))).toThrow(/bytes, not the/);
  });

  it('BlockDigests.parse() refuses the digest blob of another layer or version, whatever its root', () => {
    for (const at of [0, 8, 12, 16, 24, 28, 32]) {
      const changed = bytes.slice();
      changed[at]! ^= 1;
      const own = { ...layer, root: hash.blake3(changed) };
      expect(() => BlockDigests.parse(hash, own, changed)).toThrow(/not one of version 1 for/);
    }
  });
});

describe('digestedLayer()', () => {
  const descriptor = { mediaType: 'm', digest, size: blob.sizeBytes };

  it('reads what blockDigestsAnnotations() says', () => {
    const annotations = blockDigestsAnnotations(hash, { digest, bytes });
    expect(digestedLayer({ ...descriptor, annotations })).toEqual(layer);
    expect(digestedLayer({ ...descriptor, annotations: {} })).toBeUndefined();
  });

  it.each([
    { [BLOCK_DIGESTS_ANNOTATION]: digest },
    { [BLOCK_DIGESTS_ROOT_ANNOTATION]: `blake3:${'0'.repeat(64)}` },
    {
      [BLOCK_DIGESTS_ANNOTATION]: 'x',
      [BLOCK_DIGESTS_ROOT_ANNOTATION]: `blake3:${'0'.repeat(64)}`,
    },
    {
      [BLOCK_DIGESTS_ANNOTATION]: digest,
      [BLOCK_DIGESTS_ROOT_ANNOTATION]: `sha256:${'0'.repeat(64)}`,
    },
  ])('refuses %j', (annotations) => {
    expect(() => digestedLayer({ ...descriptor, annotations })).toThrow(/names its digest blob as/);
  });
});
