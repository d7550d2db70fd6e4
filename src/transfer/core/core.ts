import type { Verdict } from '../../image/attestation.ts';
import { blockCount, blockLength, type BlobRef, type BlockIndex } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { Random } from '../../runtime/random.ts';
import type { TouchOrder } from '../../tree/messages.ts';
import { unreachable } from '../../util/assert.ts';
import type { PeerId } from '../../util/peer-id.ts';
import { TimerHeap } from '../../util/timer-heap.ts';
import type { ReadKind } from '../contracts/blob-reader.ts';
import type { TransferErrorDetail } from '../contracts/errors.ts';
import { BlobTable } from './blob-table.ts';
import { BlockCache } from './block-cache.ts';
import {
  CORE_DEFAULTS,
  HOPS_MAX,
  keyOf,
  type BlobState,
  type CoreInit,
  type Fetch,
  type LocalRead,
  type PayloadOps,
  type Routes,
  type TimerAction,
  type Waiter,
} from './core-types.ts';
import { Egress } from './egress.ts';
import type { AttemptId, BlockSource, Effect } from './effects.ts';
import { Standstill } from './fallback.ts';
import { endsOn, makeFetch, ownHops } from './fetch.ts';
import { Fetcher } from './fetcher.ts';
import type { FetcherHost } from './fetcher-host.ts';
import { OrderGossip } from './order-gossip.ts';
import { Prefetcher } from './prefetcher.ts';
import { Waiting } from './waiting.ts';
import type { OriginNo } from '../contracts/origin.ts';
import type { BlockRequest, PeerErrorDetail } from '../contracts/transport.ts';

/**
 * The life of one block, as a reducer: reads come in, effects go out, results of effects come back
 * in. It runs in every agent and in the simulator.
 *
 *     read -> memory -> store -> fetch in flight -> parent -> (late) alternate -> root -> registry
 *
 * Nothing is used, kept or served before it is verified. Calls take the time; `take()` returns the
 * effects. `P` is the payload of a block, `T` the token of a read (compared by identity).
 */
export class BlockCore<P, T> {
  readonly #init: CoreInit;
  readonly #ops: PayloadOps<P>;
  readonly #routes: Routes;
  readonly #held: (digest: Digest, index: BlockIndex) => boolean;
  readonly #timers = new TimerHeap<TimerAction<T>>();
  readonly #cache: BlockCache<P>;
  readonly #egress: Egress<P, T>;
  readonly #fetcher: Fetcher<P, T>;
  readonly #gossip: OrderGossip<P, T>;
  readonly #standstill = new Standstill();
  readonly #prefetcher: Prefetcher<T>;
  readonly #blobs: BlobTable<T>;
  readonly #waiting: Waiting<P, T>;
  #effects: Effect<P, T>[] = [];
  #nowMs = 0;

  constructor(
    components: {
      ops: PayloadOps<P>;
      routes: Routes;
      random: Random;
      /** Whether the store has the block: answered in the same step. */
      held: (digest: Digest, index: BlockIndex) => boolean;
    },
    init: Partial<CoreInit> = {},
  ) {
    this.#init = { ...CORE_DEFAULTS, ...init };
    this.#ops = components.ops;
    this.#routes = components.routes;
    this.#held = components.held;
    this.#blobs = new BlobTable({
      blobsMax: this.#init.blobsMax,
      idleMax: this.#init.blobsIdleMax,
      onForget: (blob) => this.#onForget(blob),
    });
    this.#cache = new BlockCache(components, { sizeBytesMax: this.#init.cacheBytesMax });
    const host: FetcherHost<P, T> = {
      init: this.#init,
      ops: components.ops,
      routes: components.routes,
      random: components.random,
      timers: this.#timers,
      emit: (effect) => this.#effects.push(effect),
      onBlock: (fetch, block, source) => this.#complete(fetch, block, source),
      onRoundFailed: (fetch, no) => this.#roundFailed(fetch, no),
    };
    this.#prefetcher = new Prefetcher({
      max: this.#init.prefetchMax,
      isMissing: (blob, index) => this.#isMissing(blob, index),
      start: (blob, index) => this.#prefetch(blob, index),
    });
    this.#waiting = new Waiting(host);
    this.#egress = new Egress(host);
    this.#fetcher = new Fetcher(host);
    this.#gossip = new OrderGossip(host);
  }

  /** The effects since the last call, in order. */
  take(): readonly Effect<P, T>[] {
    const effects = this.#effects;
    if (effects.length > 0) this.#effects = [];
    return effects;
  }

  /** When `tick()` is wanted next; undefined when nothing is pending. */
  get nextWakeMs(): number | undefined {
    return this.#standstill.nextMs(this.#timers.nextMs);
  }

  get cacheBytes(): number {
    return this.#cache.sizeBytes;
  }

  /** Number of reads that wait. */
  get waitingCount(): number {
    return this.#waiting.count;
  }

  /** Time in which the limits held something back, in milliseconds. */
  get heldMs(): { readonly upload: number; readonly download: number } {
    return { upload: this.#egress.heldMs, download: this.#fetcher.heldMs };
  }

  /** Blobs that are known. */
  get blobCount(): number {
    return this.#blobs.count;
  }

  /**
   * Makes a blob known for now; its size bounds the reads of it. Throws TransferError
   * `size-differs`, `range` or `overloaded`; then nothing has changed.
   */
  addBlob(ref: BlobRef): void {
    this.#blobs.add(ref);
  }

  /**
   * Keeps a blob known until as many calls of `letGo()`. Throws as `addBlob()` does. `ownWay`: only
   * the ways of this host's own clients lead to it.
   */
  hold(ref: BlobRef, ownWay = false): void {
    const blob = this.#blobs.add(ref);
    blob.ownWay ||= ownWay;
    this.#blobs.hold(blob);
  }

  letGo(digest: Digest): void {
    const blob = this.#blobs.get(digest);
    if (blob !== undefined) this.#blobs.letGo(blob);
  }

  /** Sets the size that counts. Under another size, blocks in memory go and reads fail. */
  confirm(ref: BlobRef, nowMs: number): void {
    this.#nowMs = nowMs;
    const known = this.#blobs.get(ref.digest);
    if (known !== undefined && known.ref.sizeBytes !== ref.sizeBytes) {
      this.#prefetcher.remove(known);
      const detail = { code: 'size-differs', knownSizeBytes: ref.sizeBytes } as const;
      for (const fetch of [...known.fetches.values()]) this.#fail(fetch, detail);
    }
    this.#blobs.confirm(ref);
  }

  blob(digest: Digest): BlobRef | undefined {
    return this.#blobs.get(digest)?.ref;
  }

  /** Peers that recently read the stripe from this host. */
  childrenOf(digest: Digest, stripe: number): readonly PeerId[] {
    return [...(this.#blobs.get(digest)?.children[stripe] ?? [])];
  }

  /** The block when it is in memory now; the reference stays the cache's. */
  peek(digest: Digest, index: BlockIndex): P | undefined {
    const blob = this.#blobs.get(digest);
    if (blob === undefined) return undefined;
    this.#blobs.touch(blob);
    return this.#cache.get(keyOf(blob, index))?.block;
  }

  isOwnWay(digest: Digest): boolean {
    return this.#blobs.get(digest)?.ownWay === true;
  }

  /** Something read a block of such a blob from memory by `peek()`. */
  touched(digest: Digest, index: BlockIndex, nowMs: number): void {
    this.#nowMs = nowMs;
    const blob = this.#blobs.get(digest);
    if (blob !== undefined) this.#prefetcher.readOn(blob, index);
  }

  /** Something on this host wants a block; ends in `answer` or `fail`. */
  read(read: LocalRead<T>, nowMs: number): void {
    this.#nowMs = nowMs;
    const blob = this.#blobs.get(read.digest);
    const isInside = blob !== undefined && read.index < blockCount(blob.ref.sizeBytes);
    if (!isInside || !this.#waiting.hasRoom) {
      const code = isInside ? 'overloaded' : blob === undefined ? 'unknown-blob' : 'range';
      this.#effects.push({ type: 'fail', token: read.token, detail: { code } });
      return;
    }
    this.#arrive(blob, read.index, {
      token: read.token,
      kind: read.kind,
      deadlineMs: nowMs + read.timeoutMs,
      startedMs: nowMs,
      hops: ownHops(blob, read.index, this.#routes),
      ...{ peer: undefined, endsOnNo: read.endsOnNo ?? false, timer: undefined },
    });
    if (blob.ownWay) this.#prefetcher.readOn(blob, read.index);
  }

  /** A peer wants a block; ends in `send` or `refuse`. */
  readForPeer(token: T, peer: PeerId, request: BlockRequest, nowMs: number): void {
    this.#nowMs = nowMs;
    this.#fetcher.alive(peer, nowMs);
    const blob = this.#blobs.get(request.digest);
    const isKnown = blob?.ownWay === false;
    if (!isKnown || request.index >= blockCount(blob.ref.sizeBytes)) {
      const code = isKnown ? 'protocol' : 'unknown-blob';
      this.#effects.push({ type: 'refuse', token, detail: { code } });
      return;
    }
    const behindMs = this.#egress.behindMs(request.kind);
    if (!this.#waiting.hasRoomFor(peer) || behindMs > 0) {
      const retryAfterMs = Math.ceil(Math.max(this.#init.retryMsMin, behindMs));
      const detail = { code: 'overloaded', retryAfterMs } as const;
      this.#effects.push({ type: 'refuse', token, detail });
      return;
    }
    this.#gossip.addChild(blob, request.index, peer);
    this.#waiting.peerBegins(peer, nowMs);
    this.#arrive(blob, request.index, {
      token,
      kind: request.kind,
      deadlineMs: nowMs + Math.min(this.#init.peerTimeoutMsMax, request.timeoutMs),
      startedMs: nowMs,
      hops: Math.min(HOPS_MAX, request.hops),
      ...{ peer, endsOnNo: true, timer: undefined },
    });
  }

  /** The read is a demand read from here on. */
  promote(token: T, nowMs: number): void {
    this.#nowMs = nowMs;
    const waiting = this.#waiting.get(token);
    if (waiting === undefined) return this.#egress.promote(token, nowMs);
    if (waiting.waiter.kind === 'demand') return;
    waiting.waiter.kind = 'demand';
    const { blob, index } = waiting.fetch;
    this.#gossip.noteTouch({ blob, index, by: waiting.waiter.peer }, nowMs);
    if (waiting.fetch.kind === 'prefetch') this.#fetcher.promote(waiting.fetch, nowMs);
  }

  /** The asker no longer wants an answer; no effect follows for the token. */
  cancel(token: T, nowMs: number): void {
    this.#nowMs = nowMs;
    const waiting = this.#waiting.get(token);
    if (waiting !== undefined) this.#drop(waiting.fetch, waiting.waiter);
  }

  /** A peer gave up a read that it asked for. */
  cancelForPeer(token: T, peer: PeerId, nowMs: number): void {
    this.cancel(token, nowMs);
    for (const parcel of this.#egress.withdraw(peer, (each) => each.token === token)) {
      this.#ops.release(parcel.block);
      this.#waiting.peerDone(peer);
    }
  }

  /** The last connection to the peer closed: its reads end, and its requests go elsewhere. */
  peerGone(peer: PeerId, nowMs: number): void {
    this.#nowMs = nowMs;
    for (const { fetch, waiter } of this.#waiting.ofPeer(peer)) this.#drop(fetch, waiter);
    for (const parcel of this.#egress.withdraw(peer, () => true)) {
      this.#ops.release(parcel.block);
      this.#waiting.peerDone(peer);
    }
    for (const { children } of this.#blobs.values()) {
      for (const peers of children) peers.delete(peer);
    }
    this.#fetcher.peerGone(peer, nowMs);
  }

  /** The store's answer to `disk-read`; the reference passes to the reducer. */
  diskRead(digest: Digest, index: BlockIndex, block: P | undefined, nowMs: number): void {
    this.#nowMs = nowMs;
    const fetch = this.#blobs.get(digest)?.fetches.get(index);
    const lengthBytes = fetch && blockLength(fetch.blob.ref.sizeBytes, index);
    const isRight = block !== undefined && this.#ops.length(block) === lengthBytes;
    if (block !== undefined && !(isRight && fetch?.stage === 'disk')) this.#ops.release(block);
    if (fetch?.stage !== 'disk') return;
    if (isRight) {
      fetch.stage = 'done';
      this.#complete(fetch, block, 'disk');
      return;
    }
    fetch.stage = 'network';
    this.#fetcher.route(fetch, nowMs);
  }

  /** The store is done with a `disk-write` of this length. */
  written(lengthBytes: number, nowMs: number): void {
    this.#nowMs = nowMs;
    this.#fetcher.written(lengthBytes, nowMs);
  }

  /** A source answered `ask` or `ask-origin`; the reference passes to the reducer. */
  received(attempt: AttemptId, block: P, nowMs: number): void {
    this.#nowMs = nowMs;
    this.#fetcher.received(attempt, block, nowMs);
  }

  /** The result of `verify`. `block` replaces the checked block and takes over its reference. */
  verified(attempt: AttemptId, verdict: Verdict, nowMs: number, block?: P): void {
    this.#nowMs = nowMs;
    this.#fetcher.verified(attempt, verdict, nowMs, block);
  }

  /** Blocks came before these at their origin. */
  progressed(attempts: readonly AttemptId[], nowMs: number): void {
    this.#fetcher.progressed(attempts, nowMs);
  }

  failed(attempt: AttemptId, detail: PeerErrorDetail, nowMs: number): void {
    this.#nowMs = nowMs;
    this.#fetcher.failed(attempt, detail, nowMs);
  }

  /** The block of a `send` left this host, or its peer is gone. */
  sent(token: T, peer: PeerId, nowMs: number): void {
    this.#nowMs = nowMs;
    this.#waiting.peerDone(peer);
    this.#egress.sent(token, nowMs);
  }

  /** The peer said that it is alive. */
  alive(peer: PeerId, nowMs: number): void {
    this.#fetcher.alive(peer, nowMs);
  }

  /** The order in which containers touch a blob: from the owner, a parent, or a trace. */
  order(order: TouchOrder, nowMs: number): void {
    this.#nowMs = nowMs;
    const blob = this.#blobs.get(order.digest);
    if (blob === undefined) return;
    this.#prefetcher.add(blob, this.#gossip.learn(blob, order.indices, nowMs));
  }

  /** Runs the timers that are due. */
  tick(nowMs: number): void {
    this.#nowMs = nowMs;
    if (this.#standstill.mustWait(this.#timers.nextMs ?? nowMs, nowMs)) return;
    for (
      let action = this.#timers.takeDue(nowMs);
      action !== undefined;
      action = this.#timers.takeDue(nowMs)
    ) {
      this.#onTimer(action);
    }
  }

  /** Drops the blob's blocks in memory: later reads go to the store, or to its sources. */
  forget(digest: Digest): void {
    for (const key of this.#blobs.get(digest)?.cachedKeys ?? []) this.#cache.delete(key);
  }

  /** Drops every block in memory. */
  clearCache(): void {
    this.#cache.clear();
  }

  #onTimer(action: TimerAction<T>): void {
    switch (action.type) {
      case 'hedge':
        return this.#fetcher.onHedge(action.attempt, this.#nowMs);
      case 'retry':
        return this.#fetcher.onRetry(action.fetch, this.#nowMs);
      case 'silent':
        return this.#fetcher.onSilent(action.window, this.#nowMs);
      case 'late':
        action.waiter.timer = this.#timers.set(action.waiter.deadlineMs, {
          ...action,
          type: 'deadline',
        });
        return this.#fetcher.onLate(action.fetch, this.#nowMs);
      case 'deadline':
        return this.#onDeadline(action.fetch, action.waiter);
      case 'alive':
        return this.#waiting.onAlive(action.peer, this.#nowMs);
      case 'upload':
        return this.#egress.onUpload(this.#nowMs);
      case 'download':
        return this.#fetcher.onDownload(this.#nowMs);
      case 'order':
        return this.#gossip.tell(action.blob);
      default:
        return unreachable(action);
    }
  }

  #arrive(blob: BlobState<T>, index: BlockIndex, waiter: Waiter<T>): void {
    if (waiter.kind === 'demand') {
      this.#fetcher.noteDemand();
      this.#gossip.noteTouch({ blob, index, by: waiter.peer }, this.#nowMs);
    }
    this.#blobs.touch(blob);
    const cached = this.#cache.get(keyOf(blob, index));
    if (cached !== undefined && (cached.servable || waiter.peer === undefined)) {
      this.#satisfy(waiter, cached.block, 'memory');
      return;
    }
    const fetch = blob.fetches.get(index);
    if (fetch !== undefined) {
      this.#join(fetch, waiter);
      return;
    }
    const held = this.#held(blob.ref.digest, index);
    if (!held && this.#lacksHops(blob, index, waiter)) {
      this.#refuse(waiter, { code: 'hops' });
      return;
    }
    this.#start(blob, index, { kind: waiter.kind, hops: waiter.hops, held }, waiter);
  }

  #start(
    blob: BlobState<T>,
    index: BlockIndex,
    how: { kind: ReadKind; hops: number; held: boolean },
    waiter: Waiter<T> | undefined,
  ): void {
    const fetch = makeFetch(blob, index, { ...how, wanted: waiter === undefined });
    blob.fetches.set(index, fetch);
    this.#blobs.hold(blob);
    if (waiter !== undefined) this.#await(fetch, waiter);
    if (how.held) this.#effects.push({ type: 'disk-read', blob: blob.ref, index });
    else this.#fetcher.route(fetch, this.#nowMs);
  }

  #join(fetch: Fetch<T>, waiter: Waiter<T>): void {
    if (waiter.peer !== undefined && fetch.stage === 'network') {
      if (this.#lacksHops(fetch.blob, fetch.index, waiter)) {
        this.#refuse(waiter, { code: 'hops' });
        return;
      }
      this.#await(fetch, waiter);
      this.#fetcher.lowerHops(fetch, waiter.hops, this.#nowMs);
    } else {
      this.#await(fetch, waiter);
    }
    if (waiter.kind === 'demand' && fetch.kind === 'prefetch') {
      this.#fetcher.promote(fetch, this.#nowMs);
    }
  }

  /** Whether a peer's read lacks the hops to the owner: it went astray, or in a circle. */
  #lacksHops(blob: BlobState<T>, index: BlockIndex, waiter: Waiter<T>): boolean {
    if (waiter.peer === undefined) return false;
    return waiter.hops <= this.#routes.depth(blob.ref.digest, index % blob.stripes);
  }

  #await(fetch: Fetch<T>, waiter: Waiter<T>): void {
    fetch.waiters.push(waiter);
    this.#waiting.add(fetch, waiter);
    const local = waiter.peer === undefined && waiter.kind === 'demand';
    waiter.timer = local
      ? this.#timers.set(this.#fetcher.lateMs(waiter), { type: 'late', fetch, waiter })
      : this.#timers.set(waiter.deadlineMs, { type: 'deadline', fetch, waiter });
  }

  #satisfy(waiter: Waiter<T>, block: P, source: BlockSource): void {
    this.#ops.retain(block);
    if (waiter.peer === undefined) {
      this.#effects.push({ type: 'answer', token: waiter.token, block, source });
      return;
    }
    const { token, peer, kind } = waiter;
    const lengthBytes = this.#ops.length(block);
    this.#egress.add({ token, peer, block, lengthBytes, kind }, this.#nowMs);
  }

  #complete(fetch: Fetch<T>, block: P, source: BlockSource): void {
    const { blob, index, key, kind } = fetch;
    const servable = source !== 'fallback';
    this.#end(fetch);
    const lengthBytes = this.#ops.length(block);
    this.#effects.push({ type: 'fetched', source, kind, lengthBytes });
    this.#cache.put(key, { block, servable, keys: blob.cachedKeys });
    if (servable && source !== 'disk') {
      this.#ops.retain(block);
      this.#fetcher.room.owes(lengthBytes);
      this.#effects.push({ type: 'disk-write', blob: blob.ref, index, block, kind });
    }
    for (const waiter of fetch.waiters.splice(0)) {
      this.#waiting.remove(waiter);
      if (servable || waiter.peer === undefined) this.#satisfy(waiter, block, source);
      else this.#refuse(waiter, { code: 'not-found' });
    }
    this.#ops.release(block);
    if (fetch.wanted) this.#prefetcher.done();
  }

  #roundFailed(fetch: Fetch<T>, no: OriginNo | undefined): boolean {
    const owned = this.#routes.owns(fetch.blob.ref.digest, fetch.index % fetch.blob.stripes);
    for (const waiter of [...fetch.waiters]) {
      const isPatient = waiter.peer === undefined ? waiter.kind === 'demand' : owned;
      if (isPatient && !endsOn(waiter, no)) continue;
      fetch.waiters.splice(fetch.waiters.indexOf(waiter), 1);
      this.#waiting.remove(waiter);
      if (waiter.peer !== undefined) this.#refuse(waiter, { code: 'not-found' });
      else this.#failRead(waiter, no);
    }
    if (fetch.waiters.length > 0) return true;
    this.#end(fetch);
    if (fetch.wanted) this.#prefetcher.done();
    return false;
  }

  /** Ends a fetch, and the reads that wait for it, for this reason. */
  #fail(fetch: Fetch<T>, detail: TransferErrorDetail): void {
    this.#end(fetch);
    this.#fetcher.abandon(fetch, this.#nowMs);
    for (const waiter of fetch.waiters.splice(0)) {
      this.#waiting.remove(waiter);
      if (waiter.peer !== undefined) this.#refuse(waiter, { code: 'unknown-blob' });
      else this.#effects.push({ type: 'fail', token: waiter.token, detail });
    }
    if (fetch.wanted) this.#prefetcher.done();
  }

  #end({ blob, index }: Fetch<T>): void {
    blob.fetches.delete(index);
    this.#blobs.letGo(blob);
  }

  /** A blob that nothing uses leaves the table. */
  #onForget(blob: BlobState<T>): void {
    for (const key of blob.cachedKeys) this.#cache.delete(key);
    this.#prefetcher.remove(blob);
    this.#effects.push({ type: 'forgot', digest: blob.ref.digest });
  }

  #onDeadline(fetch: Fetch<T>, waiter: Waiter<T>): void {
    this.#drop(fetch, waiter);
    if (waiter.peer === undefined) this.#failRead(waiter);
    else this.#effects.push({ type: 'refuse', token: waiter.token, detail: { code: 'timeout' } });
  }

  #failRead({ token, startedMs }: Waiter<T>, no?: OriginNo): void {
    const late = { code: 'deadline', waitedMs: this.#nowMs - startedMs } as const;
    const detail = no === undefined ? late : ({ code: 'origin', no } as const);
    this.#effects.push({ type: 'fail', token, detail });
  }

  #refuse(waiter: Waiter<T>, detail: PeerErrorDetail): void {
    this.#effects.push({ type: 'refuse', token: waiter.token, detail });
    if (waiter.peer !== undefined) this.#waiting.peerDone(waiter.peer);
  }

  /** Takes a waiter off its fetch; a fetch that nobody wants any more ends. */
  #drop(fetch: Fetch<T>, waiter: Waiter<T>): void {
    const at = fetch.waiters.indexOf(waiter);
    if (at >= 0) fetch.waiters.splice(at, 1);
    this.#waiting.remove(waiter);
    if (waiter.peer !== undefined) this.#waiting.peerDone(waiter.peer);
    if (fetch.waiters.length > 0 || fetch.wanted || fetch.stage === 'done') return;
    // The registry sends the block already: the next reader must not cost it the same again.
    const isSent = fetch.attempts.some(({ source }) => source === 'origin' || source === 'own-way');
    if (isSent) return;
    this.#end(fetch);
    this.#fetcher.abandon(fetch, this.#nowMs);
  }

  #isMissing(blob: BlobState<T>, index: BlockIndex): boolean {
    const { digest } = blob.ref;
    if (!blob.ownWay && this.#routes.owns(digest, index % blob.stripes)) return false;
    const isHere = blob.fetches.has(index) || this.#cache.get(keyOf(blob, index)) !== undefined;
    return !isHere && !this.#held(digest, index);
  }

  #prefetch(blob: BlobState<T>, index: BlockIndex): void {
    const hops = ownHops(blob, index, this.#routes);
    this.#start(blob, index, { kind: 'prefetch', hops, held: false }, undefined);
  }
}
