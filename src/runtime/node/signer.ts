import { createPrivateKey, createPublicKey, sign } from 'node:crypto';
import { assert } from '../../util/assert.ts';
import type { Signer } from '../codec.ts';

/** Bytes of an Ed25519 seed: the private key of RFC 8032, section 5.1.5. */
const SEED_BYTES = 32;

/** Fixed PKCS #8 bytes in front of a raw Ed25519 seed (RFC 8410, section 7). */
const PKCS8_PREFIX = Buffer.from('302e020100300506032b657004220420', 'hex');

/** Signs with an Ed25519 key made from a 32-byte seed. */
export function ed25519Signer(seed: Uint8Array): Signer {
  assert(
    seed.length === SEED_BYTES,
    `an Ed25519 seed must have ${SEED_BYTES} bytes, and this one has ${seed.length}`,
  );
  const key = createPrivateKey({
    key: Buffer.concat([PKCS8_PREFIX, seed]),
    format: 'der',
    type: 'pkcs8',
  });
  const spki = createPublicKey(key).export({ format: 'der', type: 'spki' });
  return {
    publicKey: new Uint8Array(spki.subarray(spki.length - 32)),
    sign: (message) => new Uint8Array(sign(null, message, key)),
  };
}
