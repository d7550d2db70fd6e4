import { createPublicKey, verify } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { ed25519Signer } from '../../../src/runtime/node/signer.ts';
import { defined } from '../../../src/util/assert.ts';
import { fromHex, toHex } from '../../../src/util/bytes.ts';

const bytes = (hex: string): Uint8Array => defined(fromHex(hex), 'hex');

describe('ed25519Signer', () => {
  // RFC 8032, section 7.1, TEST 2.
  const signer = ed25519Signer(
    bytes('4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb'),
  );

  it('ed25519Signer() derives the public key of the RFC vector', () => {
    expect(toHex(signer.publicKey)).toBe(
      '3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c',
    );
  });

  it('ed25519Signer().sign() gives the signature of the RFC vector', () => {
    expect(toHex(signer.sign(bytes('72')))).toBe(
      '92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da' +
        '085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00',
    );
  });

  it('ed25519Signer().sign() gives signatures that the public key verifies', () => {
    const spki = Buffer.concat([bytes('302a300506032b6570032100'), signer.publicKey]);
    const key = createPublicKey({ key: spki, format: 'der', type: 'spki' });
    expect(verify(null, bytes('01'), key, signer.sign(bytes('01')))).toBe(true);
    expect(verify(null, bytes('02'), key, signer.sign(bytes('01')))).toBe(false);
  });

  it('ed25519Signer() refuses a seed of another size', () => {
    expect(() => ed25519Signer(new Uint8Array(31))).toThrow('32 bytes');
  });
});
