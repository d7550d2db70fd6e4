import { NO_ATTESTATION } from '../../image/attestation.ts';
import type { BlobOrigin, BlobRef, BlockIndex } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Hash } from '../../runtime/codec.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { BufferPool, PooledBytes } from '../../util/buffer-pool.ts';
import { errorText } from '../../util/errors.ts';
import { OriginError, type Origin } from '../contracts/origin.ts';
import type { PeerErrorDetail } from '../contracts/transport.ts';
import type { AttestedBlock } from '../../image/attested-block.ts';
import type { AttemptId, Effect } from '../core/effects.ts';
import type { Attestor } from './attestor.ts';
import { isRefusal, type BlobOrigins } from './blob-origins.ts';
import { OriginRuns } from './origin-runs.ts';
import type { WrongContent } from './wrong-content.ts';

/** A registry that wants to be left alone for long is not asked by the way for this long. */
const LIMITED_MS = 60_000;

/** A read of one block from the registry. */
export type OriginRead = Extract<Effect<AttestedBlock, unknown>, { type: 'ask-origin' }>;

interface Components {
  readonly origin: Origin;
  readonly pool: BufferPool;
  readonly clock: Clock;
  readonly hash: Hash;
  readonly attestor: Attestor;
  readonly logger: Logger;
  readonly wrong: Pick<WrongContent, 'digestsOf' | 'isDistrusted'>;
}

interface OriginReaderInit {
  readonly origins: Pick<BlobOrigins, 'of' | 'refused'>;
  /** The reference to the payload passes to the callee. */
  readonly onBlock: (attempt: AttemptId, block: AttestedBlock) => void;
  readonly onFailed: (attempt: AttemptId, detail: PeerErrorDetail) => void;
  /** Why a block of the blob could not be read, for people. */
  readonly onError: (digest: Digest, text: string) => void;
  /** A block came before these, by the same request or by one that they wait for. */
  readonly onProgress: (attempts: readonly AttemptId[]) => void;
}

/**
 * Reads blocks from registries, and attests them. Of a blob that this root hashed as a whole it
 * attests only blocks with the digests that they had then; of a distrusted blob no others.
 */
export class OriginReader {
  readonly #parts: Components;
  readonly #init: OriginReaderInit;
  readonly #own = new WeakSet<AttestedBlock>();
  readonly #runs: OriginRuns;
  readonly #reads = new Map<AttemptId, AbortController>();

  constructor(components: Components, init: OriginReaderInit) {
    this.#parts = components;
    this.#init = init;
    this.#runs = new OriginRuns(components, init);
  }

  /** Whether this host read the block from a registry itself. */
  isOwn(block: AttestedBlock): boolean {
    return this.#own.has(block);
  }

  /** Reads a block; then `onBlock` or `onFailed` tells. */
  ask(read: OriginRead): void {
    const { attempt, blob, index } = read;
    const abort = new AbortController();
    this.#reads.set(attempt, abort);
    this.#read(read, abort.signal).then(
      (block) => {
        this.#reads.delete(attempt);
        this.#init.onBlock(attempt, block);
      },
      (error: unknown) => {
        this.#reads.delete(attempt);
        if (!abort.signal.aborted) {
          const text = errorText(error);
          const fields = { blob: blob.digest, block: index, error: text };
          this.#parts.logger.warn(fields, 'block could not be read from the registry');
          this.#init.onError(blob.digest, text);
        }
        this.#init.onFailed(attempt, failureOf(error));
      },
    );
  }

  /** Something waits for the block now. */
  promote(attempt: AttemptId): void {
    this.#runs.promote(attempt);
  }

  /** Nobody wants the block any more. */
  cancel(attempt: AttemptId): void {
    this.#reads.get(attempt)?.abort();
  }

  /** Gives up all reads. */
  stop(): void {
    for (const read of this.#reads.values()) read.abort();
  }

  /** Rejects with OriginError. */
  async #read(
    { attempt, blob, index, kind, source }: OriginRead,
    signal: AbortSignal,
  ): Promise<AttestedBlock> {
    const { hash, attestor, wrong } = this.#parts;
    const origin = this.#init.origins.of(blob.digest);
    if (origin === undefined) {
      throw new OriginError(`no registry is known for blob ${blob.digest}`, { code: 'not-found' });
    }
    // Before anything is read: a distrusted blob has to be hashed first.
    if (source === 'origin') wrong.digestsOf(blob, origin);
    const located = { ...blob, origin, isOwnWay: source === 'own-way' };
    const isUrgent = kind === 'demand';
    const wanted = { attempt, blob: located, index, isUrgent };
    const payload = await this.#runs.read(wanted, signal).catch((error: unknown) => {
      if (isRefusal(error)) this.#init.origins.refused(blob.digest, origin);
      throw error;
    });
    let block: AttestedBlock = { payload, attestation: NO_ATTESTATION };
    if (source === 'origin') {
      const blockDigest = hash.blake3(payload.bytes);
      const whole = this.#isOfWhole(blob, origin, { payload, index, blockDigest });
      const claim = { blob: blob.digest, index, blockDigest, whole };
      const attestation = await attestor.attest(claim, this.#runs.count === 0);
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

/** Why a registry did not give a block, in the words for all sources. */
function failureOf(error: unknown): PeerErrorDetail {
  const code = error instanceof OriginError ? error.code : 'unavailable';
  if (code === 'limited') return { code: 'overloaded', retryAfterMs: LIMITED_MS };
  if (code === 'bad-content') return { code: 'protocol', isContent: true };
  return { code: code === 'unavailable' ? 'unreachable' : code };
}
