import {
  AttestationChecker,
  isWhole,
  NO_ATTESTATION,
  type Verdict,
} from '../../image/attestation.ts';
import type { AttestedBlock } from '../../image/attested-block.ts';
import type { BlockDigests } from '../../image/block-digests.ts';
import { blockCount, blockLength, type BlobRef, type BlockIndex } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { SignedClaim } from '../../image/signed-claim.ts';
import type { Hash } from '../../runtime/codec.ts';
import { BitSet } from '../../util/bit-set.ts';
import { bytesEqual } from '../../util/bytes.ts';
import type { Distrust } from '../contracts/distrust.ts';

/** Maximum number of believed root keys: far more than there are roots, over many replacements. */
const TRUSTED_MAX = 64;

/** The result of a check. */
export interface CheckedBlock {
  readonly verdict: Verdict;
  /** The checked block, with the digest if that was computed. It shares the payload. */
  readonly block: AttestedBlock;
  /** A believed root signed that it hashed the whole blob: it distrusts the digest. */
  readonly isWhole?: boolean;
}

interface Known {
  readonly digests: BlockDigests;
  /** Blocks whose attestation was checked too. */
  readonly attested: BitSet;
}

/**
 * Decides whether blocks are right: by the digests of the image where it brings them, by
 * attestations of roots elsewhere. Of a distrusted blob only `whole` attestations count.
 *
 * A block that its image's digests vouch for is used whatever its attestation says. But hosts
 * without those digests (they read through the local endpoint, which sees no manifest) go by the
 * attestation, and would blame this host for passing on a bad one. So the attestation is checked
 * before the block is first sent to a peer: `mayPassOn()`. Most hosts are leaves of their trees and
 * send nothing.
 */
export class BlockVerifier {
  readonly #hash: Hash;
  readonly #own: Uint8Array;
  readonly #distrust: Pick<Distrust, 'has'>;
  readonly #checker: AttestationChecker;
  /**
   * By blob, for at most the blobs that an agent knows (src/transfer/core/core.ts); 1/8,192 of
   * their sizes.
   */
  readonly #known = new Map<Digest, Known>();
  #untrusted: readonly Uint8Array[] = [];

  /** `own`: public key of this host, whose own attestations are believed too. */
  constructor(
    components: { hash: Hash; distrust: Pick<Distrust, 'has'> },
    init: { own: Uint8Array; rootKeys: readonly Uint8Array[] },
  ) {
    this.#hash = components.hash;
    this.#own = init.own;
    this.#distrust = components.distrust;
    this.#checker = new AttestationChecker(components, { trusted: [...init.rootKeys, init.own] });
  }

  /** Believes only these keys of roots from here on: at most `TRUSTED_MAX`, the last ones. */
  trust(rootKeys: readonly Uint8Array[]): void {
    this.#checker.trust([...rootKeys.slice(-TRUSTED_MAX), this.#own]);
  }

  /** Blocks that these keys attested are bad from here on, also in memory and in the store. */
  distrust(keys: readonly Uint8Array[]): void {
    this.#untrusted = keys;
  }

  /** From here on the blocks of the blob have these digests; false when they were known. */
  addDigests(blob: BlobRef, digests: BlockDigests): boolean {
    if (this.#known.has(blob.digest)) return false;
    const attested = new BitSet(blockCount(blob.sizeBytes));
    this.#known.set(blob.digest, { digests, attested });
    return true;
  }

  /** The digests of the blob's blocks, where its image brought them. */
  digestsOf(digest: Digest): BlockDigests | undefined {
    return this.#known.get(digest)?.digests;
  }

  /** Nothing uses the blob any more. */
  forget(digest: Digest): void {
    this.#known.delete(digest);
  }

  /** Checks a block from a peer. */
  check(blob: BlobRef, index: BlockIndex, received: AttestedBlock): CheckedBlock {
    const { payload, attestation } = received;
    const blockDigest = this.#hash.blake3(payload.bytes);
    const block = { payload, attestation, blockDigest };
    const known = this.#known.get(blob.digest);
    const attested = (): Verdict =>
      this.#checker.check({ blob: blob.digest, index, blockDigest }, attestation);
    if (payload.length !== blockLength(blob.sizeBytes, index)) {
      const isOther = known === undefined && attested() === 'good';
      return { verdict: isOther ? 'other-size' : 'bad', block };
    }
    if (known === undefined) return this.#strictly(blob, attested(), block);
    known.attested.delete(index);
    return { verdict: known.digests.matches(index, blockDigest) ? 'good' : 'bad', block };
  }

  /** Checks a root's word without its block. A view of the claim is kept. */
  checkClaim(blob: Digest, { index, blockDigest, attestation }: SignedClaim): Verdict {
    return this.#checker.check({ blob, index, blockDigest }, attestation);
  }

  /**
   * Checks a block that this host got from the registry itself, or kept: by the digests of the
   * image, if there are any. A block attested by an untrusted root is bad.
   */
  checkOwn(blob: BlobRef, index: BlockIndex, block: AttestedBlock): CheckedBlock {
    const { signer } = block.attestation;
    if (this.#untrusted.some((key) => bytesEqual(key, signer))) return { verdict: 'bad', block };
    if (block.payload.length !== blockLength(blob.sizeBytes, index)) {
      return { verdict: 'bad', block };
    }
    const known = this.#known.get(blob.digest);
    if (known !== undefined) {
      const blockDigest = this.#digestOf(block);
      const verdict = known.digests.matches(index, blockDigest) ? 'good' : 'bad';
      return { verdict, block: { ...block, blockDigest } };
    }
    // A last resort for this host alone is not attested, and goes to nobody else.
    const isForSelf = block.attestation === NO_ATTESTATION;
    if (isForSelf || !this.#distrust.has(blob.digest)) return { verdict: 'good', block };
    const claim = { index, blockDigest: this.#digestOf(block), attestation: block.attestation };
    return this.#strictly(blob, this.checkClaim(blob.digest, claim), block);
  }

  /** Whether a verified block carries an attestation that every other host accepts. */
  mayPassOn(digest: Digest, index: BlockIndex, block: AttestedBlock): boolean {
    const known = this.#known.get(digest);
    if (known === undefined) return true;
    if (this.#distrust.has(digest) && !isWhole(block.attestation)) return false;
    if (known.attested.has(index)) return true;
    const claim = { blob: digest, index, blockDigest: this.#digestOf(block) };
    if (this.#checker.check(claim, block.attestation) !== 'good') return false;
    known.attested.add(index);
    return true;
  }

  /** The verdict by a checked attestation, which has to be `whole` for a distrusted blob. */
  #strictly({ digest }: BlobRef, verdict: Verdict, block: AttestedBlock): CheckedBlock {
    if (verdict !== 'good') return { verdict, block };
    if (isWhole(block.attestation)) return { verdict, block, isWhole: true };
    return { verdict: this.#distrust.has(digest) ? 'not-whole' : 'good', block };
  }

  #digestOf({ payload, blockDigest }: AttestedBlock): Uint8Array {
    return blockDigest ?? this.#hash.blake3(payload.bytes);
  }
}
