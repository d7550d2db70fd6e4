import type { Hash, Signer } from '../runtime/codec.ts';
import { defined } from '../util/assert.ts';
import { attestBatch, type Attestation } from './attestation.ts';
import { blockIndex, type BlockIndex } from './block.ts';
import type { Digest } from './digest.ts';

/** A root's word on one block of a blob, without the block: proof of what the root said. */
export interface SignedClaim {
  readonly index: BlockIndex;
  /** BLAKE3 of the block, 32 bytes. */
  readonly blockDigest: Uint8Array;
  readonly attestation: Attestation;
}

/** The index in a notice: far above that of any block, so that no block passes for a notice. */
const NOTICE_INDEX = blockIndex(2 ** 32 - 1);

/**
 * A root's word that wrong blocks of the blob were attested, and that only `whole` claims of it
 * count from now on: a `whole` claim on no block. It is proof from any host that passes it on.
 */
export function signNotice(
  components: { readonly hash: Pick<Hash, 'sha256'>; readonly signer: Signer },
  blob: Digest,
): SignedClaim {
  const claim = { index: NOTICE_INDEX, blockDigest: new Uint8Array(32) };
  const [attestation] = attestBatch(components, [{ blob, ...claim, whole: true }]);
  return { ...claim, attestation: defined(attestation, 'a batch of one has one attestation') };
}
