import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  attestBatch,
  ATTESTATION_SIGNATURE_BYTES,
  AttestationChecker,
  BATCH_BLOCKS_MAX,
  batchSize,
  isWhole,
  type Attestation,
  type BlockClaim,
} from '../../src/image/attestation.ts';
import { blockIndex } from '../../src/image/block.ts';
import { parseDigest } from '../../src/image/digest.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import { ed25519Signer } from '../../src/runtime/node/signer.ts';
import { defined } from '../../src/util/assert.ts';
import { toHex } from '../../src/util/bytes.ts';

const hash = new NodeHash();
const signer = ed25519Signer(new Uint8Array(32).fill(7));
const blob = defined(parseDigest(`sha256:${'0123456789abcdef'.repeat(4)}`), 'a digest');

function claims(count: number): BlockClaim[] {
  return Array.from({ length: count }, (_, i) => ({
    blob,
    index: blockIndex(i * 3),
    blockDigest: hash.blake3(new Uint8Array([i])),
  }));
}

/** NodeHash that counts signature checks. */
class CountingHash extends NodeHash {
  checks = 0;

  override ed25519Verify(...args: Parameters<NodeHash['ed25519Verify']>): boolean {
    this.checks++;
    return super.ed25519Verify(...args);
  }
}

function checker(counting = new CountingHash()): AttestationChecker {
  return new AttestationChecker({ hash: counting }, { trusted: [signer.publicKey] });
}

function only(attestations: readonly Attestation[]): Attestation {
  return defined(attestations[0], 'an attestation');
}

describe('attestBatch()', () => {
  it('gives the golden bytes for the second of three blocks', () => {
    const attestation = defined(attestBatch({ hash, signer }, claims(3))[1], 'the second');
    const hex = toHex(attestation.signature);
    expect(hex.length).toBe(2 * ATTESTATION_SIGNATURE_BYTES);
    expect(hex.replace(/(.{64})(?=.)/g, '$1\n').split('\n')).toEqual(GOLDEN);
  });

  it('attests every block of every size of batch, and nothing else', () => {
    for (let count = 1; count <= BATCH_BLOCKS_MAX; count++) {
      const batch = claims(count);
      const attestations = attestBatch({ hash, signer }, batch);
      for (const [i, claim] of batch.entries()) {
        const own = defined(attestations[i], 'an attestation');
        expect(batchSize(own)).toBe(2 ** Math.ceil(Math.log2(count)));
        expect(checker().check(claim, own)).toBe('good');
        for (const [j, other] of batch.entries()) {
          if (j !== i) expect(checker().check(other, own)).toBe('bad');
        }
      }
    }
  });
});

describe('AttestationChecker.check()', () => {
  const [claim] = claims(1) as [BlockClaim];

  it('checks one signature for a batch', () => {
    const counting = new CountingHash();
    const one = checker(counting);
    const batch = claims(BATCH_BLOCKS_MAX);
    for (const [i, attestation] of attestBatch({ hash, signer }, batch).entries()) {
      expect(one.check(defined(batch[i], 'a claim'), attestation)).toBe('good');
    }
    expect(counting.checks).toBe(1);
  });

  it('says unknown-signer for a root that it does not know, whatever else is wrong', () => {
    const stranger = ed25519Signer(new Uint8Array(32).fill(8));
    const attestation = only(attestBatch({ hash, signer: stranger }, [claim]));
    expect(checker().check(claim, attestation)).toBe('unknown-signer');
    const one = checker();
    one.trust([stranger.publicKey]);
    expect(one.check(claim, attestation)).toBe('good');
    expect(one.check(claim, only(attestBatch({ hash, signer }, [claim])))).toBe('unknown-signer');
  });

  it('says bad when another key is put over a signature', () => {
    const other = ed25519Signer(new Uint8Array(32).fill(8));
    const one = new AttestationChecker({ hash }, { trusted: [signer.publicKey, other.publicKey] });
    const { signature } = only(attestBatch({ hash, signer }, [claim]));
    expect(one.check(claim, { signer: other.publicKey, signature })).toBe('bad');
  });

  it('says bad when somebody else puts it that the root had hashed the whole blob, or not', () => {
    for (const whole of [false, true]) {
      const { signer: key, signature } = only(attestBatch({ hash, signer }, [{ ...claim, whole }]));
      const attestation = { signer: key, signature };
      expect(isWhole(attestation)).toBe(whole);
      expect(checker().check(claim, attestation)).toBe('good');
      const turned = signature.slice();
      turned[66] = whole ? 0 : 1;
      expect(checker().check(claim, { signer: key, signature: turned })).toBe('bad');
    }
  });

  it('says bad for another blob, index or content', () => {
    const attestation = only(attestBatch({ hash, signer }, [claim]));
    const otherBlob = defined(parseDigest(`sha256:${'f'.repeat(64)}`), 'a digest');
    for (const change of [
      { blob: otherBlob },
      { index: blockIndex(1) },
      { blockDigest: hash.blake3(new Uint8Array([9])) },
    ]) {
      expect(checker().check({ ...claim, ...change }, attestation)).toBe('bad');
    }
  });

  it('says bad when any bit differs, also of a batch that it remembers', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: BATCH_BLOCKS_MAX }),
        fc.nat({ max: ATTESTATION_SIGNATURE_BYTES * 8 - 1 }),
        (count, bit) => {
          const batch = claims(count);
          const attestations = attestBatch({ hash, signer }, batch);
          const one = checker();
          for (const [i, each] of batch.entries()) {
            const { signature } = defined(attestations[i], 'an attestation');
            expect(one.check(each, { signer: signer.publicKey, signature })).toBe('good');
            const changed = signature.slice();
            changed[bit >> 3]! ^= 1 << (bit & 7);
            expect(one.check(each, { signer: signer.publicKey, signature: changed })).toBe('bad');
          }
        },
      ),
      { numRuns: 60 },
    );
  });

  it('says bad for a signature of another length', () => {
    const attestation = only(attestBatch({ hash, signer }, [claim]));
    const short = { ...attestation, signature: attestation.signature.subarray(1) };
    expect(checker().check(claim, short)).toBe('bad');
  });
});

/**
 * Signature, depth 2 and position 1, first leaf, the node of the third and an empty leaf, zeros.
 */
const GOLDEN: readonly string[] = [
  '55e71eb8746689e72d9ecac2954dffc1d53e13e2d2d45700cc11c6ecada59b2f',
  'd889656a6c171e50819e468dcb3d9ee43109aa6cdbc0dacd7f7b4809ec836d07',
  '02010000fdf271af288a92c62aba170fa2628627870bd860d7d778608a2fe9d1',
  '80602ace65a0e05cbc65ab91220cd2faa1e3468aa62ba7d65554d57ed2c9d3c7',
  'f3ddbba300000000000000000000000000000000000000000000000000000000',
  '00000000',
];
