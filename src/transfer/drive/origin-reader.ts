import { NO_ATTESTATION } from '../../image/attestation.ts';
import { BLOCK_SIZE_BYTES, blockLength, type BlobOrigin } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { Hash } from '../../runtime/codec.ts';
import type { BufferPool, PooledBytes } from '../../util/buffer-pool.ts';
import { OriginError, type Origin } from '../contracts/origin.ts';
import type { AttestedBlock } from '../../image/attested-block.ts';
import type { Effect } from '../core/effects.ts';
import type { Attestor } from './attestor.ts';

/** A read of one block from the registry; `fallback`: for this host alone. */
export type OriginRead = Extract<Effect<AttestedBlock, unknown>, { type: 'ask-origin' }>;

/** Reads blocks from registries, and attests them. */
export class OriginReader {
  readonly #parts: {
    readonly origin: Origin;
    readonly pool: BufferPool;
    readonly hash: Hash;
    readonly attestor: Attestor;
  };
  readonly #originOf: (digest: Digest) => BlobOrigin | undefined;
  readonly #own = new WeakSet<AttestedBlock>();
  #reading = 0;

  constructor(
    components: { origin: Origin; pool: BufferPool; hash: Hash; attestor: Attestor },
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
    const { pool, origin, hash, attestor } = this.#parts;
    const where = this.#originOf(blob.digest);
    if (where === undefined) {
      throw new OriginError(`no registry is known for blob ${blob.digest}`, { code: 'not-found' });
    }
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
      const claim = { blob: blob.digest, index, blockDigest };
      const attestation = await attestor.attest(claim, this.#reading === 0);
      block = { payload, attestation, blockDigest };
    }
    this.#own.add(block);
    return block;
  }
}
