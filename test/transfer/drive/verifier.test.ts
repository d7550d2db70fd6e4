import { describe, expect, it } from 'vitest';
import { attestBatch, NO_ATTESTATION, type Attestation } from '../../../src/image/attestation.ts';
import type { AttestedBlock } from '../../../src/image/attested-block.ts';
import { BlockDigests } from '../../../src/image/block-digests.ts';
import { BLOCK_SIZE_BYTES, blockIndex } from '../../../src/image/block.ts';
import type { Digest } from '../../../src/image/digest.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { ed25519Signer } from '../../../src/runtime/node/signer.ts';
import { BlockVerifier } from '../../../src/transfer/drive/verifier.ts';
import { defined } from '../../../src/util/assert.ts';
import { PooledBytes } from '../../../src/util/buffer-pool.ts';
import { DIGEST } from '../kit/small-world.ts';

const hash = new NodeHash();
const root = ed25519Signer(new Uint8Array(32).fill(1));
const own = ed25519Signer(new Uint8Array(32).fill(2));
const stranger = ed25519Signer(new Uint8Array(32).fill(3));
const blob = { digest: DIGEST, sizeBytes: BLOCK_SIZE_BYTES + 10 };
const last = blockIndex(1);
const right = new Uint8Array(10).fill(5);
const wrong = new Uint8Array(10).fill(6);

function answer(bytes: Uint8Array, attestation: Attestation): AttestedBlock {
  return { payload: PooledBytes.unpooled(bytes), attestation };
}

function attested(bytes: Uint8Array, signer = root, whole = false): Attestation {
  const claim = { blob: DIGEST, index: last, blockDigest: hash.blake3(bytes), whole };
  return defined(attestBatch({ hash, signer }, [claim])[0], 'an attestation');
}

function verifier(distrust: ReadonlySet<Digest> = new Set()): BlockVerifier {
  return new BlockVerifier({ hash, distrust }, { own: own.publicKey, rootKeys: [root.publicKey] });
}

/** Of an image whose digests are known here. */
function knowing(distrust?: ReadonlySet<Digest>): BlockVerifier {
  const made = verifier(distrust);
  const digests = new Uint8Array(64);
  digests.set(hash.blake3(right), 32);
  expect(made.addDigests(blob, BlockDigests.make(blob, digests))).toBe(true);
  return made;
}

describe('BlockVerifier.check()', () => {
  it('goes by the attestation', () => {
    expect(verifier().check(blob, last, answer(right, attested(right))).verdict).toBe('good');
    expect(verifier().check(blob, last, answer(wrong, attested(right))).verdict).toBe('bad');
    const short = answer(right.subarray(1), attested(right));
    expect(verifier().check(blob, last, short).verdict).toBe('bad');
  });

  it('refuses a block of a wrong length, and blames no peer for the word of a root', () => {
    const short = answer(right.subarray(1), attested(right.subarray(1)));
    expect(verifier().check(blob, last, short).verdict).toBe('other-size');
    expect(knowing().check(blob, last, short).verdict).toBe('bad');
    const kept = answer(right.subarray(1), attested(right.subarray(1)));
    expect(verifier().checkOwn(blob, last, kept).verdict).toBe('bad');
  });

  it('takes of a distrusted blob only what a root attested after hashing all of it', () => {
    const careful = verifier(new Set([DIGEST]));
    const weak = answer(right, attested(right));
    const whole = answer(right, attested(right, root, true));
    for (const check of [careful.check.bind(careful), careful.checkOwn.bind(careful)]) {
      expect(check(blob, last, weak)).toMatchObject({ verdict: 'not-whole' });
      expect(check(blob, last, whole)).toMatchObject({ verdict: 'good', isWhole: true });
      const forged = answer(wrong, attested(right, root, true));
      expect(check(blob, last, forged).verdict).toBe('bad');
      const strange = answer(right, attested(right, stranger, true));
      expect(check(blob, last, strange).verdict).toBe('unknown-signer');
    }
    expect(verifier().check(blob, last, whole)).toMatchObject({ verdict: 'good', isWhole: true });
    expect(verifier().check(blob, last, weak).isWhole).toBeUndefined();
  });

  it('takes what this host read for itself alone, of a distrusted blob too', () => {
    const careful = verifier(new Set([DIGEST]));
    expect(careful.checkOwn(blob, last, answer(right, NO_ATTESTATION)).verdict).toBe('good');
    expect(careful.check(blob, last, answer(right, NO_ATTESTATION)).verdict).not.toBe('good');
  });

  it('learns nothing from a whole bit that it did not check', () => {
    const forged = answer(right, attested(right, stranger, true));
    expect(knowing().check(blob, last, forged)).toMatchObject({ verdict: 'good' });
    expect(knowing().check(blob, last, forged).isWhole).toBeUndefined();
    expect(verifier().check(blob, last, forged).isWhole).toBeUndefined();
  });

  it('passes on no weak claim of a distrusted blob, whatever the image says of the block', () => {
    const careful = knowing(new Set([DIGEST]));
    expect(careful.mayPassOn(DIGEST, last, answer(right, attested(right)))).toBe(false);
    expect(careful.mayPassOn(DIGEST, last, answer(right, attested(right, root, true)))).toBe(true);
    expect(careful.mayPassOn(DIGEST, last, answer(right, attested(right)))).toBe(false);
  });

  it('knows the keys that it was told last, and no others', () => {
    const one = verifier();
    const block = answer(right, attested(right, stranger));
    expect(one.check(blob, last, block).verdict).toBe('unknown-signer');
    one.trust([stranger.publicKey]);
    expect(one.check(blob, last, block).verdict).toBe('good');
    expect(one.check(blob, last, answer(right, attested(right))).verdict).toBe('unknown-signer');
  });

  it('goes by the digests of the image alone, where it has them', () => {
    expect(knowing().check(blob, last, answer(right, NO_ATTESTATION)).verdict).toBe('good');
    expect(knowing().check(blob, last, answer(wrong, attested(wrong))).verdict).toBe('bad');
  });

  it('gives the block with its digest and leaves the one that came as it was', () => {
    const received = answer(right, attested(right));
    const { block } = verifier().check(blob, last, received);
    expect(block).toEqual({ ...received, blockDigest: hash.blake3(right) });
    expect([block.payload === received.payload, 'blockDigest' in received]).toEqual([true, false]);
  });
});

describe('BlockVerifier.checkOwn()', () => {
  it('holds a block of the registry or the store against the digests of the image', () => {
    expect(verifier().checkOwn(blob, last, answer(wrong, NO_ATTESTATION)).verdict).toBe('good');
    expect(knowing().checkOwn(blob, last, answer(wrong, NO_ATTESTATION)).verdict).toBe('bad');
    expect(knowing().checkOwn(blob, last, answer(right, NO_ATTESTATION)).verdict).toBe('good');
  });

  it('says bad of what a root attested that is distrusted, also where it was kept', () => {
    const one = verifier();
    const kept = answer(right, attested(right));
    expect(one.checkOwn(blob, last, kept).verdict).toBe('good');
    one.distrust([root.publicKey]);
    expect(one.checkOwn(blob, last, kept).verdict).toBe('bad');
    expect(one.checkOwn(blob, last, answer(right, attested(right, own))).verdict).toBe('good');
  });
});

describe('BlockVerifier.mayPassOn()', () => {
  it('keeps back a block of the image whose attestation no host would accept', () => {
    const one = knowing();
    const bad = answer(right, attested(wrong));
    expect(one.check(blob, last, bad).verdict).toBe('good');
    expect(one.mayPassOn(DIGEST, last, bad)).toBe(false);
    const good = answer(right, attested(right));
    expect(one.check(blob, last, good).verdict).toBe('good');
    expect(one.mayPassOn(DIGEST, last, good)).toBe(true);
    // Sent by another peer later, with another attestation: looked at anew.
    expect(one.check(blob, last, bad).verdict).toBe('good');
    expect(one.mayPassOn(DIGEST, last, bad)).toBe(false);
  });

  it('passes on what was taken on its attestation', () => {
    const one = verifier();
    const good = answer(right, attested(right));
    expect(one.check(blob, last, good).verdict).toBe('good');
    expect(one.mayPassOn(DIGEST, last, good)).toBe(true);
  });
});
