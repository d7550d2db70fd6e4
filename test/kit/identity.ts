import type { Identity } from '../../src/net/node/identity.ts';
import { ed25519Signer } from '../../src/runtime/node/signer.ts';

/** The key pair of host number n. */
export function identity(number: number): Identity {
  const seed = new Uint8Array(32).fill(number);
  return { seed, publicKey: ed25519Signer(seed).publicKey };
}
