import { describe, expect, it } from 'vitest';
import { AttestationChecker, isWhole } from '../../src/image/attestation.ts';
import { BLOCKS_MAX } from '../../src/image/block.ts';
import { signNotice } from '../../src/image/signed-claim.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import { ed25519Signer } from '../../src/runtime/node/signer.ts';
import { digestOf } from '../tree/kit/messages.ts';

const hash = new NodeHash();
const signer = ed25519Signer(new Uint8Array(32).fill(7));

describe('signNotice()', () => {
  it('makes a whole claim that holds for one blob, and for no block', () => {
    const { attestation, ...claim } = signNotice({ hash, signer }, digestOf(1));
    const checker = new AttestationChecker({ hash }, { trusted: [signer.publicKey] });
    expect(isWhole(attestation)).toBe(true);
    expect(checker.check({ blob: digestOf(1), ...claim }, attestation)).toBe('good');
    expect(checker.check({ blob: digestOf(2), ...claim }, attestation)).toBe('bad');
    expect(claim.index).toBeGreaterThanOrEqual(BLOCKS_MAX);
  });
});
