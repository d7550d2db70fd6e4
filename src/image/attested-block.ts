import type { PooledBytes } from '../util/buffer-pool.ts';
import type { Attestation } from './attestation.ts';

/** A block with a root's attestation of it. Its receiver releases the payload. */
export interface AttestedBlock {
  readonly payload: PooledBytes;
  readonly attestation: Attestation;
  /** BLAKE3 of the payload, 32 bytes, when this host has computed it already. */
  readonly blockDigest?: Uint8Array;
}
