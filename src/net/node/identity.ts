import { privateKeyFromRaw } from '@libp2p/crypto/keys';
import type { PrivateKey } from '@libp2p/interface';
import { peerIdFromPrivateKey, peerIdFromString } from '@libp2p/peer-id';
import { assert } from '../../util/assert.ts';
import { peerId, type PeerId } from '../../util/peer-id.ts';

const KEY_BYTES = 32;

/** The host's key pair, as the signer has it too. */
export interface Identity {
  /** Ed25519 seed, 32 bytes. Secret. */
  readonly seed: Uint8Array;
  /** Its public key, 32 bytes. */
  readonly publicKey: Uint8Array;
}

/** The private key in libp2p's form. */
export function privateKeyOf(identity: Identity): PrivateKey {
  assert(identity.seed.length === KEY_BYTES, 'an Ed25519 seed has 32 bytes');
  assert(identity.publicKey.length === KEY_BYTES, 'an Ed25519 public key has 32 bytes');
  const raw = new Uint8Array(2 * KEY_BYTES);
  raw.set(identity.seed, 0);
  raw.set(identity.publicKey, KEY_BYTES);
  return privateKeyFromRaw(raw);
}

/** Name of the host with this key pair. */
export function peerIdOf(identity: Identity): PeerId {
  return peerId(peerIdFromPrivateKey(privateKeyOf(identity)).toString());
}

/**
 * Ed25519 public key (32 bytes) that a peer id stands for; undefined when the text is no such peer
 * id.
 */
export function publicKeyOf(peer: PeerId): Uint8Array | undefined {
  try {
    const id = peerIdFromString(peer);
    if (id.type !== 'Ed25519' || id.toString() !== peer) return undefined;
    return id.publicKey.raw;
  } catch {
    return undefined;
  }
}
