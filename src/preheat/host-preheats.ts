import { BlockStoreError } from '../blockstore/errors.ts';
import type { BlockStore } from '../blockstore/store.ts';
import {
  BLOCK_SIZE_BYTES,
  blockIndex,
  blockLength,
  type BlobRef,
  type BlockIndex,
} from '../image/block.ts';
import { digestOf, type Digest } from '../image/digest.ts';
import {
  blobsOf,
  isForeign,
  parseManifest,
  type Manifest,
  type ResolvedImage,
} from '../image/manifest.ts';
import type { Clock, Timer } from '../runtime/clock.ts';
import type { Codec, Hash } from '../runtime/codec.ts';
import type { Logger } from '../runtime/logger.ts';
import { backoffMs } from '../util/backoff.ts';
import { BoundedMap } from '../util/bounded-map.ts';
import { CodedError, errorText } from '../util/errors.ts';
import type { ReadOptions } from '../transfer/contracts/blob-reader.ts';
import { TransferError } from '../transfer/contracts/errors.ts';
import { openImage, type ImageOpener } from '../transfer/read/open-image.ts';
import {
  isFinal,
  reasonOf,
  type HostProgress,
  type PreheatFailure,
  type PreheatOrder,
  type PreheatState,
  type StuckBlock,
} from './messages.ts';
import { bytesOf, wholeImage } from './plan.ts';
import { tracedBlocks, type PlannedBlock } from '../transfer/read/traced-blocks.ts';

/**
 * Bytes requested at a time: 16 MiB. The simulator was measured with this window (docs/TREES.md).
 * It is far more than the 8 prefetches that a parent accepts, so all parents of a host are busy.
 */
const WINDOW_BYTES = 64 * BLOCK_SIZE_BYTES;

/**
 * Longest wait of a preheat for its places. Without them its reads would go to the roots, together
 * with the reads of all other hosts.
 */
const PLACES_MS_MAX = 30_000;

/**
 * Maximum number of preheats waiting behind the running one; beyond that a start fails as `busy`.
 */
const WAITING_MAX = 16;

/** Maximum number of finished preheats whose end is remembered. */
const FINISHED_MAX = 64;

/**
 * A preheat goes on for this long after its last block came: enough for a cache that fetches a
 * large blob first, and for a root to restart. A registry that fails or refuses ends it sooner, by
 * the root's word. (tunable)
 */
const PATIENCE_MS = 180_000;
/** How long a block is tried for that the store does not keep. */
const STORE_MS_MAX = 50_000;
/**
 * After these tries, or this long without a block of a blob, the root is told, which knows why or
 * asks the registry.
 */
const TRIES_STUCK = 2;
const STUCK_MS = 2_000;
const RETRY_MS_MIN = 100;
const RETRY_MS_MAX = 5_000;

/**
 * How long a host stays in the trees of an image that it has brought in, as a parent for slower
 * hosts: as long as a silent host does.
 */
const STAY_MS = 20 * 60_000;

/**
 * Maximum number of images whose trees a host stays in for that reason; beyond that it leaves the
 * oldest.
 */
const STAYS_MAX = 64;

/**
 * Longest wait for the check of the image against its digests. The check of a large one goes on
 * after the preheat is over.
 */
const CHECK_MS_MAX = 2_000;

/**
 * Share of the quota that preheating may fill: the share to which the store evicts when it is full.
 */
const QUOTA_SHARE = 0.9;

/** The part of an agent that preheating needs; `TransferEngine` has all of it. */
interface PreheatEngine extends ImageOpener {
  /** Resolves once no check of the blob against its digest is due. */
  readonly wrong: { settled(digest: Digest): Promise<void> };
  keep(blob: BlobRef, index: BlockIndex, options: ReadOptions): Promise<void>;
}

interface Components {
  readonly engine: PreheatEngine;
  readonly store: Pick<BlockStore, 'has' | 'usage' | 'pin' | 'retain' | 'release'>;
  readonly codec: Codec;
  readonly hash: Hash;
  readonly clock: Clock;
  readonly logger: Logger;
}

interface Work {
  readonly id: string;
  readonly order: PreheatOrder;
  readonly abort: AbortController;
  state: PreheatState;
  doneBytes: number;
  totalBytes: number;
  failure?: PreheatFailure;
  reason?: string;
  /** A block that was refused. */
  stuck?: StuckBlock | undefined;
  /** Blocks that are asked for, and since when; the first one first. */
  readonly asked: Map<PlannedBlock, number>;
  /** When a block came last: of all, and of each blob. */
  cameMs: number;
  readonly cameOfMs: Map<Digest, number>;
  /** Of each blob, to be aborted when the registry has not got it. */
  readonly wanted: Map<Digest, Wanted>;
}

/** What is wanted of a blob ends when the registry has not got it, and with the work. */
interface Wanted {
  readonly missing: AbortController;
  readonly signal: AbortSignal;
}

/** A preheat did not bring its image in. */
class WorkError extends CodedError<{ readonly code: PreheatFailure }> {}

/**
 * Brings images into the store of this host, one after the other, on a root's orders. It reads
 * every block as a prefetch, so that blocks that containers wait for go first, here and on every
 * host on the way.
 *
 * Life: constructed -> used -> `stop()`, which gives up the running preheat and leaves the trees.
 */
export class HostPreheats {
  readonly #components: Components;
  readonly #quotaBytes: number;
  /** In arrival order. */
  readonly #works = new Map<string, Work>();
  readonly #waiting: Work[] = [];
  /** Blobs whose trees the host leaves when the timer fires. */
  readonly #stays = new BoundedMap<readonly Digest[], Timer>({
    entriesMax: STAYS_MAX,
    onEvict: (digests, timer) => this.#leave(digests, timer),
  });
  #running: Promise<void> | undefined;
  #stopped = false;

  constructor(components: Components, init: { readonly quotaBytes: number }) {
    this.#components = components;
    this.#quotaBytes = init.quotaBytes;
  }

  /** Starts a preheat, unless it is already known. */
  start(id: string, order: PreheatOrder): HostProgress {
    const known = this.#works.get(id);
    if (known !== undefined) return this.#progressOf(known);
    const work: Work = {
      id,
      order,
      abort: new AbortController(),
      state: 'waiting',
      doneBytes: 0,
      totalBytes: 0,
      wanted: new Map(),
      asked: new Map(),
      cameMs: this.#components.clock.nowMs(),
      cameOfMs: new Map(),
    };
    this.#works.set(id, work);
    if (this.#stopped) end(work, 'failed', 'stopped');
    else if (this.#waiting.length >= WAITING_MAX) end(work, 'failed', 'busy');
    else this.#waiting.push(work);
    this.#running ??= this.#runAll();
    this.#forgetOldest();
    return this.#progressOf(work);
  }

  /**
   * Undefined for a preheat that is not known (any more). `missing`: what the registry has not got;
   * the host does without it.
   */
  progress(id: string, missing: readonly Digest[] = []): HostProgress | undefined {
    const work = this.#works.get(id);
    if (work === undefined) return undefined;
    for (const digest of missing) wantedOf(work, digest).missing.abort();
    if (work.stuck !== undefined && missing.includes(work.stuck.digest)) work.stuck = undefined;
    return this.#progressOf(work);
  }

  /** Cancels a preheat; blocks already fetched stay. */
  cancel(id: string): HostProgress | undefined {
    const work = this.#works.get(id);
    if (work === undefined) return undefined;
    end(work, 'cancelled');
    return this.#progressOf(work);
  }

  #progressOf(work: Work): HostProgress {
    const { state, doneBytes, totalBytes, failure, reason } = work;
    const stuck = isFinal(state) ? undefined : (work.stuck ?? this.#lateOf(work));
    return {
      ...{ state, doneBytes, totalBytes },
      ...(failure !== undefined && { failure }),
      ...(reason !== undefined && { reason }),
      ...(stuck !== undefined && { stuck }),
    };
  }

  /** The block that is waited for longest, where nothing else of its blob comes meanwhile. */
  #lateOf({ asked, cameOfMs }: Work): StuckBlock | undefined {
    const nowMs = this.#components.clock.nowMs();
    for (const [{ blob, index }, sinceMs] of asked) {
      if (nowMs - sinceMs < STUCK_MS) return undefined;
      const isLate = nowMs - (cameOfMs.get(blob.digest) ?? sinceMs) >= STUCK_MS;
      if (isLate) return { digest: blob.digest, index };
    }
    return undefined;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    for (const work of this.#works.values()) end(work, 'failed', 'stopped');
    await this.#running;
    for (const [digests, timer] of this.#stays) this.#leave(digests, timer);
  }

  async #runAll(): Promise<void> {
    for (let work = this.#waiting.shift(); work !== undefined; work = this.#waiting.shift()) {
      if (isFinal(work.state)) continue;
      work.state = 'running';
      const { reference } = work.order;
      try {
        await this.#run(work);
        end(work, 'done');
      } catch (error) {
        end(work, 'failed', failureOf(error), reasonOf(error));
        this.#components.logger.warn({ reference, error: errorText(error) }, 'preheat failed');
      }
      const { state, doneBytes, totalBytes } = work;
      this.#components.logger.info({ reference, state, doneBytes, totalBytes }, 'preheat ended');
    }
    this.#running = undefined;
  }

  async #run(work: Work): Promise<void> {
    const { engine, hash, store } = this.#components;
    const { signal } = work.abort;
    const image = this.#imageOf(work.order);
    const blobs = blobsOf(image.manifest);
    const digests = blobs.map(({ digest }) => digest);
    store.retain(digests);
    try {
      const { origin } = image;
      const located = blobs.map((blob) => ({ blob, origin }));
      await engine.tree.open(located, signal, PLACES_MS_MAX);
      this.#stay(digests);
      const places = { placesMsMax: PLACES_MS_MAX };
      (await openImage({ engine, hash }, image, signal, places)).close();
      const { blocks, totalBytes } = await this.#plan(work, image, blobs);
      work.totalBytes = totalBytes;
      this.#requireRoom(work, digests);
      if (work.order.pin) for (const digest of digests) await store.pin(digest);
      await this.#bring(work, blocks);
      checkComplete(work, image.manifest);
      if (work.order.part === 'image') await this.#checkContent(work, blobs);
    } finally {
      store.release(digests);
    }
  }

  #imageOf({ reference, digest, manifest, origin }: PreheatOrder): ResolvedImage {
    const found = digestOf(this.#components.hash, manifest);
    if (found !== digest) {
      throw new WorkError(`the manifest of ${reference} has digest ${found}, not ${digest}`, {
        code: 'image',
      });
    }
    return { reference, digest, origin, manifest: parseManifest(manifest) };
  }

  async #plan(
    work: Work,
    { manifest }: ResolvedImage,
    blobs: readonly BlobRef[],
  ): Promise<{ readonly blocks: Iterable<PlannedBlock>; readonly totalBytes: number }> {
    if (work.order.part === 'image') {
      const totalBytes = blobs.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
      return { blocks: wholeImage(blobs), totalBytes };
    }
    const { engine, codec } = this.#components;
    const blocks = await tracedBlocks({ reader: engine, codec }, manifest, work.abort.signal);
    if (blocks.length > 0) return { blocks, totalBytes: bytesOf(blocks) };
    throw new WorkError(`${work.order.reference} ships no trace`, { code: 'no-trace' });
  }

  /**
   * The store does not evict mounted or pinned blobs for an image that is only likely to be needed.
   */
  #requireRoom(work: Work, digests: readonly Digest[]): void {
    const own = new Set(digests);
    const keptBytes = this.#components.store
      .usage()
      .filter(({ digest, keep }) => keep !== 'plain' && !own.has(digest))
      .reduce((sum, { heldBytes }) => sum + heldBytes, 0);
    const roomBytes = Math.floor(this.#quotaBytes * QUOTA_SHARE) - keptBytes;
    if (work.totalBytes <= roomBytes) return;
    throw new WorkError(
      `${work.order.reference} needs ${work.totalBytes} bytes, ` +
        `but the store has room for ${Math.max(0, roomBytes)}: ` +
        `${QUOTA_SHARE * 100} % of its quota of ${this.#quotaBytes}, ` +
        `without ${keptBytes} bytes of mounted or pinned blobs`,
      { code: 'quota' },
    );
  }

  /**
   * Brings the blocks in, in order, a window of them at a time. The first block that fails ends the
   * preheat.
   */
  async #bring(work: Work, blocks: Iterable<PlannedBlock>): Promise<void> {
    const { store, clock } = this.#components;
    const queue = blocks[Symbol.iterator]();
    work.cameMs = clock.nowMs();
    const worker = async (): Promise<void> => {
      for (let next = queue.next(); next.done !== true; next = queue.next()) {
        const { blob, index } = next.value;
        const lengthBytes = blockLength(blob.sizeBytes, index);
        const isHere = store.has(blob.digest, index) || (await this.#keep(work, { blob, index }));
        if (isHere) work.doneBytes += lengthBytes;
        else work.totalBytes -= lengthBytes;
      }
    };
    const failed = (error: unknown): never => {
      work.abort.abort(error);
      throw error;
    };
    const workers = Array.from({ length: WINDOW_BYTES / BLOCK_SIZE_BYTES }, () =>
      worker().catch(failed),
    );
    const ends = await Promise.allSettled(workers);
    if (ends.every(({ status }) => status === 'fulfilled')) return;
    const reason: unknown = work.abort.signal.reason;
    throw reason instanceof Error ? reason : new Error(errorText(reason));
  }

  /** Rejects with WorkError when a blob was dropped again, since its content is another. */
  async #checkContent(work: Work, blobs: readonly BlobRef[]): Promise<void> {
    const { engine, store, clock } = this.#components;
    const brought = blobs.filter(
      ({ digest }) => wantedOf(work, digest).missing.signal.aborted !== true,
    );
    const settled = Promise.all(brought.map(({ digest }) => engine.wrong.settled(digest)));
    const enough = new AbortController();
    const late = clock.sleep(CHECK_MS_MAX, enough.signal).catch(() => {});
    await Promise.race([settled, late]);
    enough.abort(new Error('the content is checked'));
    work.abort.signal.throwIfAborted();
    const wrong = brought.find(({ digest }) => !store.has(digest, blockIndex(0)));
    if (wrong === undefined) return;
    const what = `what the registry gives for ${wrong.digest} has another digest`;
    throw new WorkError(what, { code: 'protocol' });
  }

  /** False when the registry has not got the blob. */
  async #keep(work: Work, block: PlannedBlock): Promise<boolean> {
    const { clock } = this.#components;
    work.asked.set(block, clock.nowMs());
    try {
      const isHere = await this.#try(work, block);
      work.cameMs = clock.nowMs();
      work.cameOfMs.set(block.blob.digest, work.cameMs);
      return isHere;
    } finally {
      work.asked.delete(block);
    }
  }

  async #try(work: Work, { blob, index }: PlannedBlock): Promise<boolean> {
    const { engine, clock } = this.#components;
    const wanted = wantedOf(work, blob.digest);
    const { signal } = wanted;
    const missing = wanted.missing.signal;
    const startedMs = clock.nowMs();
    for (let tries = 1; !missing.aborted; tries++) {
      try {
        await engine.keep(blob, index, { kind: 'prefetch', signal, endsOnNo: true });
        if (tries > TRIES_STUCK) work.stuck = undefined;
        return true;
      } catch (cause) {
        if (missing.aborted) break;
        if (signal.aborted) throw cause;
        const isUnread = cause instanceof TransferError;
        if (isUnread && tries >= TRIES_STUCK) work.stuck ??= { digest: blob.digest, index };
        const nowMs = clock.nowMs();
        const isOver = isUnread
          ? nowMs - work.cameMs >= PATIENCE_MS
          : nowMs - startedMs >= STORE_MS_MAX;
        if (isOver) {
          const what = `block ${index} of ${blob.digest}`;
          throw new WorkError(
            `cannot fetch ${what}, tried ${tries} times: ${errorText(cause)}`,
            { code: failureOf(cause) },
            { cause },
          );
        }
      }
      const pauseMs = backoffMs(tries, RETRY_MS_MIN, RETRY_MS_MAX);
      await clock.sleep(pauseMs, signal).catch((error: unknown) => {
        if (!missing.aborted) throw error;
      });
    }
    return false;
  }

  #stay(digests: readonly Digest[]): void {
    const timer = this.#components.clock.setTimer(STAY_MS, () => this.#leave(digests, timer));
    this.#stays.set(digests, timer);
  }

  #leave(digests: readonly Digest[], timer: Timer): void {
    timer.cancel();
    this.#stays.delete(digests);
    this.#components.engine.tree.close(digests);
  }

  #forgetOldest(): void {
    const finished = [...this.#works.values()].filter(({ state }) => isFinal(state));
    for (const { id } of finished.slice(0, Math.max(0, finished.length - FINISHED_MAX))) {
      this.#works.delete(id);
    }
  }
}

function wantedOf({ wanted, abort }: Work, digest: Digest): Wanted {
  const known = wanted.get(digest);
  if (known !== undefined) return known;
  const missing = new AbortController();
  const made = { missing, signal: AbortSignal.any([abort.signal, missing.signal]) };
  wanted.set(digest, made);
  return made;
}

/** Throws WorkError when the registry has not got all that it should have. */
function checkComplete({ wanted, order }: Work, { config, layers }: Manifest): void {
  const lost = [config, ...layers].filter(
    (blob) => wanted.get(blob.digest)?.missing.signal.aborted === true && !isForeign(blob),
  );
  if (lost.length === 0) return;
  const names = lost.map(({ digest }) => digest).join(', ');
  const what = `the registry has not got ${names}, which ${order.reference} names`;
  throw new WorkError(what, { code: 'missing' });
}

/** The first end counts. */
function end(work: Work, state: PreheatState, failure?: PreheatFailure, reason?: string): void {
  if (isFinal(work.state)) return;
  if (reason !== undefined) work.reason = reason;
  work.stuck = undefined;
  work.state = state;
  if (failure !== undefined) work.failure = failure;
  work.abort.abort(new Error(`the preheat is ${state}`));
}

function failureOf(error: unknown): PreheatFailure {
  if (error instanceof WorkError) return error.code;
  if (error instanceof TransferError) {
    if (error.detail.code !== 'origin') return 'unavailable';
    const { no } = error.detail;
    if (no === 'limited') return 'unavailable';
    if (no === 'bad-content') return 'protocol';
    return no === 'not-found' ? 'missing' : no;
  }
  if (!(error instanceof BlockStoreError)) return 'image';
  return error.code === 'quota' || error.code === 'no-space' ? 'quota' : 'store';
}
