import type { BlockStore } from '../../blockstore/store.ts';
import { blockCount, blockIndex, type BlobRef } from '../../image/block.ts';
import { digestBytes, type Digest } from '../../image/digest.ts';
import type { SignedClaim } from '../../image/signed-claim.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Hash } from '../../runtime/codec.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { Counter, Metrics } from '../../runtime/metrics.ts';
import { WRONG_CLAIMS_MAX } from '../../tree/limits.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { bytesEqual } from '../../util/bytes.ts';
import { errorText } from '../../util/errors.ts';
import { transferMetrics } from './metrics.ts';

/**
 * Pause between two blocks, in milliseconds: 60 to 100 MB/s at most, a tenth of a core. Nothing
 * waits for the outcome.
 */
const PAUSE_MS = 2;

/** Maximum number of blobs that wait for their check; further ones are not checked (`skipped`). */
const WAITING_MAX = 1024;

/**
 * Maximum number of blobs followed until they are whole: as many as a host of 100 images of 100
 * layers has. The oldest go first.
 */
const FOLLOWED_MAX = 16_384;

/** A blob of which every block was stored, and the digest that it is to have. */
interface Complete {
  readonly blob: BlobRef;
  readonly content: Digest;
}

/** A blob that is followed until it is whole. */
interface Followed {
  readonly sizeBytes: number;
  /** The lowest block that was missing at the last look; the count of blocks when none was. */
  readonly missing: number;
}

interface Init {
  /** Drops the wrong blob's blocks. `claims`: what roots said of the first of them. */
  readonly onBad: (blob: BlobRef, claims: readonly SignedClaim[]) => Promise<void>;
}

interface Components {
  readonly store: BlockStore;
  readonly hash: Hash;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

/**
 * Hashes every blob once when its last block was stored, and has all of it dropped when its content
 * does not match its digest: a root attested wrong blocks then, or the registry sent them. It
 * checks one blob at a time and slowly, a block between two turns of the event loop: 0.15 ms of
 * hashing, half of the cost of handing the block to another thread.
 *
 * Life: constructed -> `stored()` after each put -> `stop()`.
 */
export class WholeBlobCheck {
  readonly #parts: Components;
  readonly #onBad: Init['onBad'];
  readonly #checks: Counter;
  readonly #followed = new BoundedMap<Digest, Followed>({ entriesMax: FOLLOWED_MAX });
  readonly #waiting: Complete[] = [];
  /** Checks that are not over, by blob. */
  readonly #open = new Map<Digest, PromiseWithResolvers<void>>();
  readonly #stop = new AbortController();
  #running: Promise<void> | undefined;

  constructor(components: Components, init: Init) {
    this.#parts = components;
    this.#onBad = init.onBad;
    this.#checks = transferMetrics(components.metrics).blobChecks;
  }

  /**
   * A block of the blob was stored. `content` is the digest of the whole: of a source that is not
   * believed, the blocks have a key that is none.
   */
  stored(blob: BlobRef, content: Digest): void {
    const { digest, sizeBytes } = blob;
    const count = blockCount(sizeBytes);
    const known = this.#followed.get(digest);
    let missing = known?.sizeBytes === sizeBytes ? known.missing : 0;
    if (missing === count || this.#stop.signal.aborted) return;
    while (missing < count && this.#parts.store.has(digest, blockIndex(missing))) missing++;
    this.#followed.set(digest, { sizeBytes, missing });
    if (missing < count) return;
    if (this.#waiting.length >= WAITING_MAX) return this.#checks.inc({ result: 'skipped' });
    this.#waiting.push({ blob, content });
    if (!this.#open.has(digest)) this.#open.set(digest, Promise.withResolvers());
    this.#running ??= this.#work();
  }

  /** Resolves once no check of the blob is due or in progress. */
  async settled(digest: Digest): Promise<void> {
    await this.#open.get(digest)?.promise;
  }

  /** Blocks of the blob are dropped elsewhere: it is hashed again when it is complete again. */
  forget(digest: Digest): void {
    this.#followed.delete(digest);
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }

  async #work(): Promise<void> {
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      if (this.#stop.signal.aborted) break;
      const { blob } = next;
      try {
        const result = await this.#check(next);
        this.#checks.inc({ result });
        if (result === 'incomplete') this.#followed.delete(blob.digest);
      } catch (error) {
        if (this.#stop.signal.aborted) break;
        this.#checks.inc({ result: 'failed' });
        const fields = { blob: blob.digest, error: errorText(error) };
        this.#parts.logger.warn(fields, 'blob could not be checked');
      } finally {
        this.#settle(blob.digest);
      }
    }
    for (const digest of [...this.#open.keys()]) this.#settle(digest);
    this.#running = undefined;
  }

  #settle(digest: Digest): void {
    this.#open.get(digest)?.resolve();
    this.#open.delete(digest);
  }

  async #check({ blob, content }: Complete): Promise<'good' | 'bad' | 'incomplete'> {
    const hashed = await this.#hash(blob);
    if (hashed === undefined) return 'incomplete';
    if (bytesEqual(hashed.digest, digestBytes(content))) return 'good';
    this.#parts.logger.error(
      { blob: blob.digest },
      'blob content does not match its digest: dropping all its blocks',
    );
    this.#followed.delete(blob.digest);
    await this.#onBad(blob, hashed.claims);
    return 'bad';
  }

  async #hash(
    blob: BlobRef,
  ): Promise<{ readonly digest: Uint8Array; readonly claims: SignedClaim[] } | undefined> {
    const { store, clock, hash } = this.#parts;
    const hasher = hash.sha256Stream();
    const count = blockCount(blob.sizeBytes);
    const claims: SignedClaim[] = [];
    for (let i = 0; i < count; i++) {
      const block = await store.get(blob, blockIndex(i));
      if (block === undefined) return undefined;
      try {
        const { payload, attestation } = block;
        hasher.update(payload.bytes);
        const blockDigest = block.blockDigest ?? hash.blake3(payload.bytes);
        const claim = { index: blockIndex(i), blockDigest, attestation };
        if (claims.length < WRONG_CLAIMS_MAX) claims.push(claim);
      } finally {
        block.payload.release();
      }
      await clock.sleep(PAUSE_MS, this.#stop.signal);
    }
    return { digest: hasher.digest(), claims };
  }
}
