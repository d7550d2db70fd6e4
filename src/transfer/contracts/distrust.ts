import type { Digest } from '../../image/digest.ts';

/**
 * The distrusted blobs: those of which wrong blocks were attested. Only `whole` claims of them
 * count (src/image/attestation.ts). A bounded set that survives restarts.
 */
export interface Distrust extends Iterable<Digest> {
  has(digest: Digest): boolean;
  add(digest: Digest): void;
}
