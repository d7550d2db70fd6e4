import type { BlockStore } from '../../blockstore/store.ts';
import { BlockDigests } from '../../image/block-digests.ts';
import {
  BLOCK_SIZE_BYTES,
  blockCount,
  blockIndex,
  type BlobOrigin,
  type BlobRef,
} from '../../image/block.ts';
import { digestBytes, type Digest } from '../../image/digest.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Hash } from '../../runtime/codec.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { Counter, Metrics } from '../../runtime/metrics.ts';
import { assert } from '../../util/assert.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { bytesEqual, MIB } from '../../util/bytes.ts';
import { errorText } from '../../util/errors.ts';
import type { PeerId } from '../../util/peer-id.ts';
import { Scatter } from '../../util/scatter.ts';
import type { Origin } from '../contracts/origin.ts';
import { transferMetrics } from './metrics.ts';

/** Blocks of one request to the registry: 4 MiB. */
const REQUEST_BLOCKS = 16;

/**
 * Largest blob that a root reads whole: its digests are 8 MiB. Larger layers do not occur; one that
 * is distrusted is read by hosts for themselves alone.
 */
const BLOB_SIZE_BYTES_MAX = 64 * 1024 * MIB;

/** Digests kept, in bytes: those of 512 GiB. Those used least recently go first. */
const DIGESTS_BYTES_MAX = 64 * MIB;

/**
 * A distrusted blob that could not be read, or was wrong again, is left alone for a minute, and
 * twice as long each time, up to an hour. (tunable)
 */
const AGAIN_MS_MIN = 60_000;
const AGAIN_MS_MAX = 3_600_000;

/**
 * A blob that a host called wrong is checked once in this time, right or wrong. One that could not
 * be read where it is said to be is left alone there as a distrusted one is.
 */
const CHECK_INTERVAL_MS = 3_600_000;

/** Such checks in all that time: as many as an agent knows blobs. Beyond it: not checked. */
const CHECKS_MAX = 16_384;

/** Blobs that wait for such a check, one for each host that called one wrong. */
const WAITING_MAX = 64;

/** Pause after each block, in milliseconds: 60 to 100 MB/s at most, a tenth of a core. */
const PAUSE_MS = 2;

/** Blobs whose last failure is remembered: distrusted ones, and those called wrong. */
const FAILED_MAX = 1024;

interface Components {
  readonly store: Pick<BlockStore, 'has' | 'get'>;
  readonly origin: Origin;
  readonly hash: Hash;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

/** A blob, and where it is read. */
export interface WholeBlob {
  readonly blob: BlobRef;
  readonly origin: BlobOrigin;
}

interface Check extends WholeBlob {
  readonly by: PeerId;
  readonly onEnd: (isRight: boolean) => void;
}

interface Failure {
  readonly atMs: number;
  readonly pauseMs: number;
}

/**
 * Reads all of a blob once, at a root, and hashes it; from then on the root knows the digests of
 * its blocks. It keeps nothing else of the blob.
 *
 * Distrusted blobs are read from the registry alone, one at a time. Blobs that hosts called wrong
 * are checked beside them, also one at a time: what the root holds comes from its store. So reports
 * neither delay a distrusted blob nor cost the registry more than a reader of the blob would.
 */
export class WholeReader {
  readonly #parts: Components;
  readonly #reads: Counter;
  readonly #digests = new BoundedMap<Digest, BlockDigests>({
    entriesMax: FAILED_MAX,
    evict: 'use',
    sizeMax: DIGESTS_BYTES_MAX,
    sizeOf: ({ bytes }) => bytes.length,
  });
  readonly #failed = new BoundedMap<Digest, Failure>({ entriesMax: FAILED_MAX });
  /** Of blobs called wrong, by blob, size and place. */
  readonly #unread = new BoundedMap<string, Failure>({ entriesMax: FAILED_MAX });
  readonly #checkedMs = new BoundedMap<Digest, number>({ entriesMax: CHECKS_MAX });
  readonly #waiting: Check[] = [];
  readonly #stop = new AbortController();
  #reading: Promise<void> | undefined;
  #checking: Promise<void> | undefined;

  constructor(components: Components) {
    this.#parts = components;
    this.#reads = transferMetrics(components.metrics).wholeReads;
  }

  /** Digests of the blob's blocks, if this root hashed all of it since its start. */
  digestsOf(digest: Digest): BlockDigests | undefined {
    return this.#digests.get(digest);
  }

  /** Reads a distrusted blob, unless one is being read or this one failed recently. */
  want(whole: WholeBlob): void {
    const { digest } = whole.blob;
    if (this.#reading !== undefined || this.#stop.signal.aborted) return;
    if (this.#isLeftAlone(this.#failed.get(digest))) return;
    this.#reading = this.#read(whole, { fromStore: false })
      .then((isRight) => {
        if (isRight === true) this.#failed.delete(digest);
        else this.#fail(this.#failed, digest);
      })
      .finally(() => {
        this.#reading = undefined;
      });
  }

  /**
   * Checks a blob that a host called wrong; `onEnd` hears the outcome, unless the blob cannot be
   * read. False when there is no check: this blob had one within the hour, could not be read there
   * just now, or a bound is reached.
   */
  check(asked: Check): boolean {
    const { digest } = asked.blob;
    const isFull = this.#waiting.length >= WAITING_MAX;
    const waits = this.#waiting.some(({ by }) => by === asked.by);
    if (isFull || waits || this.#stop.signal.aborted) return false;
    const nowMs = this.#parts.clock.nowMs();
    for (const [checked, atMs] of this.#checkedMs) {
      if (nowMs < atMs + CHECK_INTERVAL_MS) break;
      this.#checkedMs.delete(checked);
    }
    if (this.#isLeftAlone(this.#unread.get(placeOf(asked)))) return false;
    if (this.#checkedMs.has(digest) || this.#checkedMs.count >= CHECKS_MAX) return false;
    this.#checkedMs.set(digest, nowMs);
    this.#waiting.push(asked);
    this.#checking ??= this.#checkAll();
    return true;
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await Promise.all([this.#reading, this.#checking]);
  }

  async #checkAll(): Promise<void> {
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      if (this.#stop.signal.aborted) break;
      const isRight = await this.#read(next, { fromStore: true });
      if (isRight === undefined) {
        this.#checkedMs.delete(next.blob.digest);
        this.#fail(this.#unread, placeOf(next));
      } else {
        this.#unread.delete(placeOf(next));
        next.onEnd(isRight);
      }
    }
    // In the step that found the line empty, so that nothing is left in it.
    this.#checking = undefined;
  }

  #isLeftAlone(failed: Failure | undefined): boolean {
    return failed !== undefined && this.#parts.clock.nowMs() < failed.atMs + failed.pauseMs;
  }

  #fail<K>(failures: BoundedMap<K, Failure>, key: K): void {
    const before = failures.get(key);
    const pauseMs = Math.min(AGAIN_MS_MAX, 2 * (before?.pauseMs ?? AGAIN_MS_MIN / 2));
    failures.set(key, { atMs: this.#parts.clock.nowMs(), pauseMs });
  }

  /** Whether the blob has its digest; undefined when it could not be read. Never rejects. */
  async #read(
    whole: WholeBlob,
    options: { readonly fromStore: boolean },
  ): Promise<boolean | undefined> {
    const { logger, origin } = this.#parts;
    const fields = { blob: whole.blob.digest, registry: whole.origin.registry };
    try {
      const digests = await this.#hash(whole, options);
      this.#reads.inc({ result: digests === undefined ? 'wrong' : 'right' });
      if (digests !== undefined) {
        this.#digests.set(whole.blob.digest, digests);
        logger.info(fields, 'read a whole blob: its content has its digest');
        return true;
      }
      logger.error(fields, 'read a whole blob: its content does not match its digest');
      origin.distrust?.(whole.origin);
      return false;
    } catch (error) {
      if (this.#stop.signal.aborted) return undefined;
      this.#reads.inc({ result: 'failed' });
      logger.warn({ ...fields, error: errorText(error) }, 'a whole blob could not be read');
      return undefined;
    }
  }

  /** A size that a host named proves nothing: the registry's word counts, where it has one. */
  async #checkSize(blob: BlobRef, origin: BlobOrigin): Promise<void> {
    if (origin.storage !== undefined) return;
    const { signal } = this.#stop;
    const { sizeBytes } = await this.#parts.origin.stat(blob.digest, origin, signal);
    if (sizeBytes === blob.sizeBytes) return;
    throw new Error(`the registry has ${sizeBytes} bytes, not ${blob.sizeBytes}`);
  }

  /** Digests of the blocks; undefined when the content does not have the blob's digest. */
  async #hash(
    { blob, origin }: WholeBlob,
    { fromStore }: { readonly fromStore: boolean },
  ): Promise<BlockDigests | undefined> {
    const { hash, clock, store } = this.#parts;
    if (blob.sizeBytes > BLOB_SIZE_BYTES_MAX) {
      throw new Error(`it has ${blob.sizeBytes} bytes, more than ${BLOB_SIZE_BYTES_MAX}`);
    }
    await this.#checkSize(blob, origin);
    const count = blockCount(blob.sizeBytes);
    const digests = new Uint8Array(32 * count);
    const hasher = hash.sha256Stream();
    const { signal } = this.#stop;
    let index = 0;
    const add = async (bytes: Uint8Array): Promise<void> => {
      hasher.update(bytes);
      digests.set(hash.blake3(bytes), 32 * index++);
      await clock.sleep(PAUSE_MS, signal);
    };
    const isHeld = (at: number): boolean => fromStore && store.has(blob.digest, blockIndex(at));
    const buffer = new Uint8Array(Math.min(REQUEST_BLOCKS * BLOCK_SIZE_BYTES, blob.sizeBytes));
    while (index < count) {
      const held = isHeld(index) ? await store.get(blob, blockIndex(index)) : undefined;
      if (held !== undefined) {
        await add(held.payload.bytes).finally(() => held.payload.release());
        continue;
      }
      let end = index + 1;
      while (end < count && end < index + REQUEST_BLOCKS && !isHeld(end)) end++;
      const start = index * BLOCK_SIZE_BYTES;
      const piece = buffer.subarray(0, Math.min(end * BLOCK_SIZE_BYTES, blob.sizeBytes) - start);
      const target = Scatter.of(piece);
      await this.#parts.origin.readInto({ ...blob, origin }, start, target, signal);
      for (let at = 0; at < piece.length; at += BLOCK_SIZE_BYTES) {
        await add(piece.subarray(at, at + BLOCK_SIZE_BYTES));
      }
    }
    assert(index === count, `${index} of ${count} blocks were hashed`);
    const isRight = bytesEqual(hasher.digest(), digestBytes(blob.digest));
    return isRight ? BlockDigests.make(blob, digests) : undefined;
  }
}

/** Names a blob, its size, and where it is said to be. */
function placeOf({ blob, origin }: WholeBlob): string {
  return JSON.stringify([blob.digest, blob.sizeBytes, origin]);
}
