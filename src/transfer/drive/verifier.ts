import { AttestationChecker, type BlockClaim, type Verdict } from '../../image/attestation.ts';
import type { BlockDigests } from '../../image/block-digests.ts';
import { blockCount, blockLength, type BlobRef, type BlockIndex } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { Hash } from '../../runtime/codec.ts';
import { BitSet } from '../../util/bit-set.ts';
import { bytesEqual } from '../../util/bytes.ts';
import type { BlockAnswer } from '../contracts/transport.ts';

/** Keys of roots that are believed: far more than there are roots, over many replacements. */
const TRUSTED_MAX = 64;

interface Known {
  readonly digests: BlockDigests;
  /** Blocks whose attestation was checked too. */
  readonly attested: BitSet;
}

/**
 * Whether blocks are the right ones: by the digests that the image brings where it brings them, by attestations of roots elsewhere.
 *
 * A block that its image's digests vouch for is used whatever its attestation says. But hosts that lack those digests (they read
 * through the local endpoint, which sees no manifest) go by the attestation, and would blame us for a bad one that we pass on. So
 * it is checked before the block is first sent to a peer: `mayPassOn()`. Most hosts are leaves of their trees and send nothing.
 */
export class BlockVerifier {
  readonly #hash: Hash;
  readonly #own: Uint8Array;
  readonly #checker: AttestationChecker;
  /** By blob, of at most as many as an agent knows (src/transfer/core/core.ts); 1/8,192 of their sizes. */
  readonly #known = new Map<Digest, Known>();
  #untrusted: readonly Uint8Array[] = [];

  /** `own`: public key of this host, whose own attestations are believed too. */
  constructor(
    components: { hash: Hash },
    init: { own: Uint8Array; rootKeys: readonly Uint8Array[] },
  ) {
    this.#hash = components.hash;
    this.#own = init.own;
    this.#checker = new AttestationChecker(components, { trusted: [...init.rootKeys, init.own] });
  }

  /** Believes these keys of roots, and no others, from here on: at most `TRUSTED_MAX`, the last ones. */
  trust(rootKeys: readonly Uint8Array[]): void {
    this.#checker.trust([...rootKeys.slice(-TRUSTED_MAX), this.#own]);
  }

  /** What these keys attested is bad from here on, also where it is kept. */
  distrust(keys: readonly Uint8Array[]): void {
    this.#untrusted = keys;
  }

  /** From here on the blocks of the blob are those with these digests; false when they were known. */
  addDigests(blob: BlobRef, digests: BlockDigests): boolean {
    if (this.#known.has(blob.digest)) return false;
    const attested = new BitSet(blockCount(blob.sizeBytes));
    this.#known.set(blob.digest, { digests, attested });
    return true;
  }

  /** A block that a peer sent. */
  check(blob: BlobRef, index: BlockIndex, block: BlockAnswer): Verdict {
    const { payload } = block;
    if (payload.length !== blockLength(blob.sizeBytes, index)) return 'bad';
    block.blockDigest = this.#hash.blake3(payload.bytes);
    const known = this.#known.get(blob.digest);
    if (known === undefined) {
      return this.#checker.check(claimOf(blob, index, block.blockDigest), block.attestation);
    }
    known.attested.delete(index);
    return known.digests.matches(index, block.blockDigest) ? 'good' : 'bad';
  }

  /**
   * A block that this host got from the registry itself, or kept: held against the digests of the image, if there are any, and bad
   * when a root attested it that is believed no more.
   */
  checkOwn(blob: BlobRef, index: BlockIndex, block: BlockAnswer): Verdict {
    const { signer } = block.attestation;
    if (this.#untrusted.some((key) => bytesEqual(key, signer))) return 'bad';
    const known = this.#known.get(blob.digest);
    if (known === undefined) return 'good';
    block.blockDigest ??= this.#hash.blake3(block.payload.bytes);
    return known.digests.matches(index, block.blockDigest) ? 'good' : 'bad';
  }

  /** Whether a verified block carries an attestation that every other host will take. */
  mayPassOn(digest: Digest, index: BlockIndex, block: BlockAnswer): boolean {
    const known = this.#known.get(digest);
    if (known === undefined || known.attested.has(index)) return true;
    block.blockDigest ??= this.#hash.blake3(block.payload.bytes);
    const claim: BlockClaim = { blob: digest, index, blockDigest: block.blockDigest };
    if (this.#checker.check(claim, block.attestation) !== 'good') return false;
    known.attested.add(index);
    return true;
  }
}

function claimOf(blob: BlobRef, index: BlockIndex, blockDigest: Uint8Array): BlockClaim {
  return { blob: blob.digest, index, blockDigest };
}
