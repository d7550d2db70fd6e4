import {
  ATTESTATION_SIGNATURE_BYTES,
  attestBatch,
  BATCH_BLOCKS_MAX,
  isWhole,
  type Attestation,
  type BlockClaim,
} from '../../image/attestation.ts';
import type { BlockIndex } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { Clock, Timer } from '../../runtime/clock.ts';
import type { Hash, Signer } from '../../runtime/codec.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { bytesEqual } from '../../util/bytes.ts';
import type { AttestedBlock } from '../../image/attested-block.ts';

/**
 * Longest wait of a block from the registry for others to be signed with it, in milliseconds: a
 * tenth of the time of the read itself.
 */
const BATCH_WAIT_MS = 3;

/**
 * Maximum number of blocks whose later, fuller batches are remembered: 4 GiB of blocks, about 8 MB
 * of memory. The oldest go first.
 */
const SEALED_MAX = 16_384;

/** Bytes of the BLAKE3 of a block. */
const DIGEST_BYTES = 32;

/** A block of a fuller batch. What its blocks need stands in one array: small ones cost much. */
interface Sealed {
  /** Digest and signature of each block of the batch. */
  readonly batch: Uint8Array;
  /** Where those of this block are. */
  readonly at: number;
}

const SEALED_BYTES = DIGEST_BYTES + ATTESTATION_SIGNATURE_BYTES;

interface Waiting {
  readonly claim: BlockClaim;
  readonly resolve: (attestation: Attestation) => void;
}

/**
 * Signs the blocks that a root reads from the registry, many at a time.
 *
 * A block read beside others waits a little for them; a block read alone is signed at once, since
 * then a reader waits and the machine is idle. Blocks signed alone, or nearly so, are signed again
 * together once there are eight. So later hosts check one signature for eight of them, even when
 * the very first host read them one by one.
 *
 * Life: constructed -> used -> `stop()` (signs the blocks that wait).
 */
export class Attestor {
  readonly #parts: { hash: Hash; signer: Signer; clock: Clock };
  #waiting: Waiting[] = [];
  #loose: BlockClaim[] = [];
  readonly #sealed = new BoundedMap<string, Sealed>({ entriesMax: SEALED_MAX });
  #timer: Timer | undefined;

  constructor(components: { hash: Hash; signer: Signer; clock: Clock }) {
    this.#parts = components;
  }

  /**
   * The attestation of a block; with `alone`, no other read is in flight that it could wait for.
   */
  attest(claim: BlockClaim, alone: boolean): Promise<Attestation> {
    return new Promise((resolve) => {
      this.#waiting.push({ claim, resolve });
      if (alone || this.#waiting.length >= BATCH_BLOCKS_MAX) this.#sign();
      else this.#timer ??= this.#parts.clock.setTimer(BATCH_WAIT_MS, () => this.#sign());
    });
  }

  /**
   * The attestation of these very bytes in a fuller batch than the block's first one, if there is
   * one.
   */
  latest(blob: Digest, index: BlockIndex, block: AttestedBlock): Attestation | undefined {
    if (this.#sealed.count === 0) return undefined;
    const sealed = this.#sealed.get(nameOf(blob, index));
    if (sealed === undefined) return undefined;
    // A weak claim that was in the making when its blob was distrusted replaces no `whole` one.
    const signatureAt = sealed.at + DIGEST_BYTES;
    const attestation: Attestation = {
      signer: this.#parts.signer.publicKey,
      signature: sealed.batch.slice(signatureAt, sealed.at + SEALED_BYTES),
    };
    if (isWhole(block.attestation) && !isWhole(attestation)) return undefined;
    const blockDigest = block.blockDigest ?? this.#parts.hash.blake3(block.payload.bytes);
    const sealedDigest = sealed.batch.subarray(sealed.at, signatureAt);
    return bytesEqual(sealedDigest, blockDigest) ? attestation : undefined;
  }

  /** The blob's blocks were wrong: no later batch holds any of them. */
  forget(blob: Digest): void {
    this.#loose = this.#loose.filter((claim) => claim.blob !== blob);
    for (const [name] of this.#sealed) if (name.startsWith(`${blob}/`)) this.#sealed.delete(name);
  }

  stop(): void {
    this.#sign();
  }

  #sign(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    const batch = this.#waiting;
    if (batch.length === 0) return;
    this.#waiting = [];
    const claims = batch.map(({ claim }) => claim);
    const attestations = attestBatch(this.#parts, claims);
    for (const [i, { resolve }] of batch.entries()) {
      const attestation = attestations[i];
      if (attestation !== undefined) resolve(attestation);
    }
    if (claims.length <= BATCH_BLOCKS_MAX / 2) this.#loose.push(...claims);
    if (this.#loose.length >= BATCH_BLOCKS_MAX) this.#seal(this.#loose.splice(0, BATCH_BLOCKS_MAX));
  }

  #seal(claims: readonly BlockClaim[]): void {
    const batch = new Uint8Array(claims.length * SEALED_BYTES);
    for (const [i, { signature }] of attestBatch(this.#parts, claims).entries()) {
      const claim = claims[i];
      if (claim === undefined) continue;
      const { blob, index, blockDigest } = claim;
      const at = i * SEALED_BYTES;
      batch.set(blockDigest, at);
      batch.set(signature, at + DIGEST_BYTES);
      this.#sealed.set(nameOf(blob, index), { batch, at });
    }
  }
}

function nameOf(blob: Digest, index: BlockIndex): string {
  return `${blob}/${index}`;
}
