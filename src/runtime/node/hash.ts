import { createHash, createPublicKey, hash, verify, type KeyObject } from 'node:crypto';
import { blake3 } from '@napi-rs/blake-hash';
import type { Hash, Hasher } from '../codec.ts';
import { BoundedMap } from '../../util/bounded-map.ts';

/** DER of a SubjectPublicKeyInfo for Ed25519 in front of the key (RFC 8410, section 4). */
const ED25519_SPKI_PREFIX = Buffer.from('302a300506032b6570032100', 'hex');
const ED25519_KEY_BYTES = 32;

/**
 * Most parsed public keys that are kept: one per root, and roots are few. The oldest is dropped
 * first.
 */
const KEYS_MAX = 64;

/** SHA-256 and Ed25519 by node:crypto, BLAKE3 by a native add-on. */
export class NodeHash implements Hash {
  readonly #keys = new BoundedMap<string, KeyObject>({ entriesMax: KEYS_MAX });

  sha256(data: Uint8Array): Uint8Array {
    return hash('sha256', data, 'buffer');
  }

  sha256Stream(): Hasher {
    const stream = createHash('sha256');
    return { update: (data) => void stream.update(data), digest: () => stream.digest() };
  }

  blake3(data: Uint8Array): Uint8Array {
    return blake3(Buffer.from(data.buffer, data.byteOffset, data.length));
  }

  ed25519Verify(publicKey: Uint8Array, message: Uint8Array, signature: Uint8Array): boolean {
    const key = this.#key(publicKey);
    return key !== undefined && verify(null, message, key, signature);
  }

  #key(publicKey: Uint8Array): KeyObject | undefined {
    if (publicKey.length !== ED25519_KEY_BYTES) return undefined;
    const name = Buffer.from(publicKey).toString('hex');
    const known = this.#keys.get(name);
    if (known !== undefined) return known;
    const der = Buffer.concat([ED25519_SPKI_PREFIX, publicKey]);
    const key = createPublicKey({ key: der, format: 'der', type: 'spki' });
    this.#keys.set(name, key);
    return key;
  }
}
