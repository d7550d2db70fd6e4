import type { PooledBytes } from '../util/buffer-pool.ts';
import type { Attestation } from './attestation.ts';

/** A block with the word of a root for it. Whoever gets one releases its payload. */
export interface AttestedBlock {
  readonly payload: PooledBytes;
  readonly attestation: Attestation;
  /** BLAKE3 of the payload, where this host has computed it: nobody need compute it again. */
  readonly blockDigest?: Uint8Array;
}
