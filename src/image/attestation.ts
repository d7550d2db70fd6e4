import type { Hash, Signer } from '../runtime/codec.ts';
import { bytesEqual, fromHex } from '../util/bytes.ts';
import { defined } from '../util/assert.ts';
import { digestHex, type Digest } from './digest.ts';
import type { BlockIndex } from './block.ts';

/**
 * A root's word that it read this block from the registry: it travels with the block, and no agent takes a block without one.
 *
 * Signed message, 93 bytes:
 *
 *     "xylem-block-attestation-1" (25) | blob sha256 (32) | block index u32 LE (4) | BLAKE3 of the block (32)
 */
export interface Attestation {
  /** Ed25519 public key of the root that signed, 32 bytes. */
  readonly signer: Uint8Array;
  /** Ed25519 signature, 64 bytes. */
  readonly signature: Uint8Array;
}

export const ATTESTATION_SIGNER_BYTES = 32;
export const ATTESTATION_SIGNATURE_BYTES = 64;

const CONTEXT = new TextEncoder().encode('xylem-block-attestation-1');

function signedMessage(blob: Digest, index: BlockIndex, blockDigest: Uint8Array): Uint8Array {
  const message = new Uint8Array(CONTEXT.length + 32 + 4 + 32);
  message.set(CONTEXT, 0);
  message.set(defined(fromHex(digestHex(blob)), 'a digest is hex'), CONTEXT.length);
  new DataView(message.buffer).setUint32(CONTEXT.length + 32, index, true);
  message.set(blockDigest, CONTEXT.length + 36);
  return message;
}

/** Attests a block that was read from the registry. */
export function attestBlock(
  components: { hash: Hash; signer: Signer },
  blob: Digest,
  index: BlockIndex,
  bytes: Uint8Array,
): Attestation {
  const message = signedMessage(blob, index, components.hash.blake3(bytes));
  return { signer: components.signer.publicKey, signature: components.signer.sign(message) };
}

/** Whether the block is the one that a trusted root attested. */
export function verifyBlock(
  components: { hash: Hash; trusted: readonly Uint8Array[] },
  blob: Digest,
  index: BlockIndex,
  block: { bytes: Uint8Array; attestation: Attestation },
): boolean {
  const { signer, signature } = block.attestation;
  if (!components.trusted.some((key) => bytesEqual(key, signer))) return false;
  const message = signedMessage(blob, index, components.hash.blake3(block.bytes));
  return components.hash.ed25519Verify(signer, message, signature);
}
