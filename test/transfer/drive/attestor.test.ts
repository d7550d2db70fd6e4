import { describe, expect, it } from 'vitest';
import {
  attestBatch,
  AttestationChecker,
  batchSize,
  NO_ATTESTATION,
  type BlockClaim,
} from '../../../src/image/attestation.ts';
import { blockIndex } from '../../../src/image/block.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { ed25519Signer } from '../../../src/runtime/node/signer.ts';
import { Attestor } from '../../../src/transfer/drive/attestor.ts';
import type { AttestedBlock } from '../../../src/image/attested-block.ts';
import { defined } from '../../../src/util/assert.ts';
import { PooledBytes } from '../../../src/util/buffer-pool.ts';
import { ManualClock } from '../../kit/manual-clock.ts';
import { DIGEST } from '../kit/small-world.ts';

const hash = new NodeHash();
const signer = ed25519Signer(new Uint8Array(32).fill(7));

function claim(index: number): BlockClaim {
  const blockDigest = hash.blake3(new Uint8Array([index]));
  return { blob: DIGEST, index: blockIndex(index), blockDigest };
}

/** The bytes that `claim(index)` is of. */
function block(index: number, bytes = new Uint8Array([index])): AttestedBlock {
  return { payload: PooledBytes.unpooled(bytes), attestation: NO_ATTESTATION };
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

  it('Attestor.attest() lets the last of several reads take the other blocks along', async () => {
    const { attestor } = make();
    const first = attestor.attest(claim(0), false);
    const last = await attestor.attest(claim(1), true);
    expect(batchSize(last)).toBe(2);
    expect((await first).signature.subarray(0, 64)).toEqual(last.signature.subarray(0, 64));
  });

  it('Attestor.latest() has eight blocks that were read one by one in one batch', async () => {
    const { attestor, checker } = make();
    for (let i = 0; i < 7; i++) await attestor.attest(claim(i), true);
    expect(attestor.latest(DIGEST, blockIndex(0), block(0))).toBeUndefined();
    await attestor.attest(claim(7), true);
    for (let i = 0; i < 8; i++) {
      const latest = attestor.latest(DIGEST, blockIndex(i), block(i));
      const attestation = defined(latest, 'a later attestation');
      expect(batchSize(attestation)).toBe(8);
      expect(checker.check(claim(i), attestation)).toBe('good');
    }
  });

  it('Attestor.latest() gives no attestation of other bytes than those that are sent', async () => {
    const { attestor } = make();
    for (let i = 0; i < 8; i++) await attestor.attest(claim(i), true);
    const again = block(3, new Uint8Array([99]));
    expect(attestor.latest(DIGEST, blockIndex(3), again)).toBeUndefined();
  });

  it('Attestor.forget() leaves no block of a wrong blob to be sent or signed again', async () => {
    const { attestor } = make();
    for (let i = 0; i < 12; i++) await attestor.attest(claim(i), true);
    attestor.forget(DIGEST);
    expect(attestor.latest(DIGEST, blockIndex(0), block(0))).toBeUndefined();
    for (let i = 12; i < 16; i++) await attestor.attest(claim(i), true);
    // The four before were forgotten, so that these four are not eight.
    expect(attestor.latest(DIGEST, blockIndex(12), block(12))).toBeUndefined();
  });

  it('Attestor.stop() signs what waits', async () => {
    const { attestor } = make();
    const waiting = attestor.attest(claim(0), false);
    attestor.stop();
    expect(batchSize(await waiting)).toBe(1);
  });

  it('Attestor.latest() puts no weak claim in the place of a whole one', async () => {
    const { attestor } = make();
    for (let i = 0; i < 8; i++) await attestor.attest(claim(i), true);
    const sealed = attestor.latest(DIGEST, blockIndex(3), block(3));
    expect(batchSize(defined(sealed, 'a fuller batch'))).toBe(8);
    const [whole] = attestBatch({ hash, signer }, [{ ...claim(3), whole: true }]);
    const later = { ...block(3), attestation: defined(whole, 'an attestation') };
    expect(attestor.latest(DIGEST, blockIndex(3), later)).toBeUndefined();
  });
});
