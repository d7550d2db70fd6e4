import { describe, expect, it } from 'vitest';
import { batchSize, AttestationChecker, type BlockClaim } from '../../../src/image/attestation.ts';
import { blockIndex } from '../../../src/image/block.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { ed25519Signer } from '../../../src/runtime/node/signer.ts';
import { Attestor } from '../../../src/transfer/drive/attestor.ts';
import { defined } from '../../../src/util/assert.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { DIGEST } from '../kit/small-world.ts';

const hash = new NodeHash();
const signer = ed25519Signer(new Uint8Array(32).fill(7));

function claim(index: number): BlockClaim {
  const blockDigest = hash.blake3(new Uint8Array([index]));
  return { blob: DIGEST, index: blockIndex(index), blockDigest };
}

function make(): { attestor: Attestor; clock: ManualClock; checker: AttestationChecker } {
  const clock = new ManualClock();
  const checker = new AttestationChecker({ hash }, { trusted: [signer.publicKey] });
  return { attestor: new Attestor({ hash, signer, clock }), clock, checker };
}

describe('Attestor', () => {
  it('Attestor.attest() signs at once a block that was read alone', async () => {
    const { attestor, checker } = make();
    const attestation = await attestor.attest(claim(0), true);
    expect(batchSize(attestation)).toBe(1);
    expect(checker.check(claim(0), attestation)).toBe('good');
  });

  it('Attestor.attest() signs together what comes within 3 ms, and eight at once', async () => {
    const { attestor, clock, checker } = make();
    const three = [0, 1, 2].map((index) => attestor.attest(claim(index), false));
    clock.advance(3);
    for (const [i, attestation] of (await Promise.all(three)).entries()) {
      expect(batchSize(attestation)).toBe(4);
      expect(checker.check(claim(i), attestation)).toBe('good');
    }
    const eight = Array.from({ length: 8 }, (_, i) => attestor.attest(claim(i + 10), false));
    for (const attestation of await Promise.all(eight)) expect(batchSize(attestation)).toBe(8);
  });

  it('Attestor.attest() lets the last block of several that are read take the others along', async () => {
    const { attestor } = make();
    const first = attestor.attest(claim(0), false);
    const last = await attestor.attest(claim(1), true);
    expect(batchSize(last)).toBe(2);
    expect((await first).signature.subarray(0, 64)).toEqual(last.signature.subarray(0, 64));
  });

  it('Attestor.latest() has all of eight blocks that were read one by one in one batch', async () => {
    const { attestor, checker } = make();
    for (let i = 0; i < 7; i++) await attestor.attest(claim(i), true);
    expect(attestor.latest(DIGEST, blockIndex(0))).toBeUndefined();
    await attestor.attest(claim(7), true);
    for (let i = 0; i < 8; i++) {
      const attestation = defined(attestor.latest(DIGEST, blockIndex(i)), 'a later attestation');
      expect(batchSize(attestation)).toBe(8);
      expect(checker.check(claim(i), attestation)).toBe('good');
    }
  });

  it('Attestor.stop() signs what waits', async () => {
    const { attestor } = make();
    const waiting = attestor.attest(claim(0), false);
    attestor.stop();
    expect(batchSize(await waiting)).toBe(1);
  });
});
