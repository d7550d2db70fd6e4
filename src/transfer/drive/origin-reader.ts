import { NO_ATTESTATION } from '../../image/attestation.ts';
import {
  BLOCK_SIZE_BYTES,
  blockLength,
  type BlobOrigin,
  type BlobRef,
  type BlockIndex,
} from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { Hash } from '../../runtime/codec.ts';
import type { BufferPool, PooledBytes } from '../../util/buffer-pool.ts';
import { OriginError, type Origin } from '../contracts/origin.ts';
import type { AttestedBlock } from '../../image/attested-block.ts';
import type { Effect } from '../core/effects.ts';
import type { Attestor } from './attestor.ts';
import type { WrongContent } from './wrong-content.ts';

/** A read of one block from the registry; `fallback`: for this host alone. */
export type OriginRead = Extract<Effect<AttestedBlock, unknown>, { type: 'ask-origin' }>;

interface Components {
  readonly origin: Origin;
  readonly pool: BufferPool;
  readonly hash: Hash;
  readonly attestor: Attestor;
  readonly wrong: Pick<WrongContent, 'digestsOf' | 'isDistrusted'>;
}

/**
 * Reads blocks from registries, and attests them. Of a blob that this root hashed as a whole it
 * attests only blocks with the digests that they had then; of a distrusted blob no others.
 */
export class OriginReader {
  readonly #parts: Components;
  readonly #originOf: (digest: Digest) => BlobOrigin | undefined;
  readonly #own = new WeakSet<AttestedBlock>();
  #reading = 0;

  constructor(
    components: Components,
    init: { readonly originOf: (digest: Digest) => BlobOrigin | undefined },
  ) {
    this.#parts = components;
    this.#originOf = init.originOf;
  }

  /** Whether this host read the block from a registry itself. */
  isOwn(block: AttestedBlock): boolean {
    return this.#own.has(block);
  }

  /** Rejects with OriginError. */
  async read(
    { blob, index, fallback }: Pick<OriginRead, 'blob' | 'index' | 'fallback'>,
    signal: AbortSignal,
  ): Promise<AttestedBlock> {
    const { pool, origin, hash, attestor, wrong } = this.#parts;
    const where = this.#originOf(blob.digest);
    if (where === undefined) {
      throw new OriginError(`no registry is known for blob ${blob.digest}`, { code: 'not-found' });
    }
    // Before anything is read: a distrusted blob has to be hashed first.
    if (!fallback) wrong.digestsOf(blob, where);
    const payload: PooledBytes = pool.acquire(blockLength(blob.sizeBytes, index));
    try {
      const offset = index * BLOCK_SIZE_BYTES;
      this.#reading++;
      await origin
        .readInto({ ...blob, origin: where }, offset, payload.bytes, signal)
        .finally(() => this.#reading--);
    } catch (error) {
      payload.release();
      throw error;
    }
    let block: AttestedBlock = { payload, attestation: NO_ATTESTATION };
    if (!fallback) {
      const blockDigest = hash.blake3(payload.bytes);
      const whole = this.#isOfWhole(blob, where, { payload, index, blockDigest });
      const claim = { blob: blob.digest, index, blockDigest, whole };
      const attestation = await attestor.attest(claim, this.#reading === 0);
      block = { payload, attestation, blockDigest };
    }
    this.#own.add(block);
    return block;
  }

  /**
   * Whether the block is to be attested as one of a hashed blob: when the blob is distrusted.
   * Throws OriginError, and releases the payload, when it may not be attested.
   */
  #isOfWhole(
    blob: BlobRef,
    where: BlobOrigin,
    read: {
      readonly payload: PooledBytes;
      readonly index: BlockIndex;
      readonly blockDigest: Uint8Array;
    },
  ): boolean {
    const { origin, wrong } = this.#parts;
    const { payload, index, blockDigest } = read;
    try {
      const digests = wrong.digestsOf(blob, where);
      if (digests?.matches(index, blockDigest) !== false) return wrong.isDistrusted(blob.digest);
      origin.distrust?.(where);
      const text = `block ${index} of ${blob.digest} differs from that of the hashed blob`;
      throw new OriginError(text, { code: 'unavailable' });
    } catch (error) {
      payload.release();
      throw error;
    }
  }
}
