import type { Verdict } from '../../image/attestation.ts';
import { halfToAll } from '../../runtime/random.ts';
import type { HostAddress } from '../../tree/messages.ts';
import { unreachable } from '../../util/assert.ts';
import { backoffMs } from '../../util/backoff.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import type { PeerId } from '../../util/peer-id.ts';
import type { Attempt, Fetch, SourceWindow, Waiter } from './core-types.ts';
import type { AttemptId, BlockSource, LostReason, OriginSource } from './effects.ts';
import type { FetcherHost } from './fetcher-host.ts';
import { Silence } from './silence.ts';
import { ban, isUsable, makeWindow, nextOf, noteHeard, noteLatency } from './source-window.ts';
import { unqueue } from './source-window.ts';
import { count, HOPS_NONE, isHolder, lateAtMs, noOf, noteLate } from './attempts.ts';
import { requestOf, uncount } from './attempts.ts';
import { kinOf } from './fetch.ts';
import { Download } from './download.ts';
import { Fallback, hasNoWay } from './fallback.ts';
import { OriginWindows } from './origin-windows.ts';
import { StoreRoom } from './store-room.ts';
import type { OriginNo } from '../contracts/origin.ts';
import type { PeerErrorDetail } from '../contracts/transport.ts';

/** Peers of which anything is remembered: far more than one host asks. */
const PEERS_MAX = 8192;

/** A holder that was slower than the registry, or busy, this often in a row rests for a while. */
const HOLDER_MISSES_MAX = 3;

/** Hosts of its tree that a host asks for a block that no source of it gives. (tunable) */
const KIN_MAX = 8;

/** Moves a fetch from source to source until one answers: windows, hedges, bans, rounds. */
export class Fetcher<P, T> {
  readonly #host: FetcherHost<P, T>;
  readonly #windows = new BoundedMap<PeerId, SourceWindow<T>>({
    entriesMax: PEERS_MAX,
    evict: 'use',
  });
  readonly #origins: OriginWindows<T>;
  readonly #fallback: Fallback<T>;
  readonly #download: Download<T>;
  /** Keeps prefetches to the pace of the store. */
  readonly room: StoreRoom<T>;
  readonly #silence: Silence<T>;
  readonly #attempts = new Map<AttemptId, { attempt: Attempt<T>; block: P | undefined }>();
  #attemptCount = 0;
  #hedgesSaved: number;

  constructor(host: FetcherHost<P, T>) {
    this.#host = host;
    this.#fallback = new Fallback({ ...host, windowOf: (each) => this.#window(each) });
    this.#origins = new OriginWindows(host.init);
    this.#hedgesSaved = host.init.hedgeSavedMax;
    this.#download = new Download(host);
    this.room = new StoreRoom(host.init);
    this.#silence = new Silence(host);
  }

  /** Time in which the download limit held something back, in milliseconds. */
  get heldMs(): number {
    return this.#download.heldMs;
  }

  /** A demand read began: it earns its share of a hedge. */
  noteDemand(): void {
    const { hedgeShare, hedgeSavedMax } = this.#host.init;
    this.#hedgesSaved = Math.min(hedgeSavedMax, this.#hedgesSaved + hedgeShare);
  }

  /** Asks the next source. With `hedge`, only a peer, if there is one; requests in flight go on. */
  route(fetch: Fetch<T>, nowMs: number, hedge = false): boolean {
    if (fetch.stage !== 'network') return false;
    const { routes } = this.#host;
    const { digest } = fetch.blob.ref;
    const stripe = fetch.index % fetch.blob.stripes;
    if (fetch.blob.ownWay || routes.owns(digest, stripe))
      return this.#routeOwned(fetch, nowMs, hedge);
    if (fetch.hops > 0) {
      for (const { host, role } of routes.sources(digest, stripe)) {
        if (!this.#mayAsk(fetch, host, nowMs)) continue;
        const source = role === 'ancestor' ? 'alternate' : role;
        this.#attempt(fetch, { window: this.#window(host), source, hops: fetch.hops - 1 }, nowMs);
        return true;
      }
    }
    if (!hedge) this.#outOfPeers(fetch, nowMs);
    return false;
  }

  /** Time at which a demand read of this host is late. */
  lateMs(waiter: Waiter<T>): number {
    return this.#fallback.lateMs(waiter);
  }

  /** A demand read of this host is late. */
  onLate(fetch: Fetch<T>, nowMs: number): void {
    if (fetch.stage !== 'network' || fetch.tried.has('origin')) return;
    if (this.#fallback.whenLate(fetch, nowMs)) this.#askOrigin(fetch, 'fallback', nowMs);
    else this.#nextLate(nowMs);
  }

  #nextLate(nowMs: number): void {
    const next = this.#fallback.next();
    if (next !== undefined) this.#askOrigin(next, 'fallback', nowMs);
  }

  /** Asks the registry beside requests in flight. */
  #askOrigin(fetch: Fetch<T>, source: OriginSource, nowMs: number): void {
    fetch.tried.add('origin');
    const window = this.#origins.of(this.#host.routes.sourceKey(fetch.blob.ref.digest));
    this.#attempt(fetch, { window, source, hops: HOPS_NONE }, nowMs);
  }

  /** Something waits for the block now: it overtakes the prefetches here and at the source. */
  promote(fetch: Fetch<T>, nowMs: number): void {
    fetch.kind = 'demand';
    for (const attempt of fetch.attempts) {
      if (attempt.kind === 'demand') continue;
      const { window } = attempt;
      if (attempt.state === 'asked') uncount(attempt);
      if (attempt.state !== 'queued') this.room.left(attempt);
      attempt.kind = 'demand';
      if (attempt.state === 'queued') {
        window.prefetch.splice(window.prefetch.indexOf(attempt), 1);
        window.demand.push(attempt);
        this.#pump(window, nowMs);
      } else if (attempt.state === 'asked') {
        this.#host.emit({ type: 'promote', attempt: attempt.id });
        this.#arm(attempt, nowMs);
        this.#pump(window, nowMs);
      }
    }
  }

  /**
   * A read with a smaller hop budget joined. Budgets fall strictly from host to host, so no circle
   * of hosts waits for itself: attempts with no smaller budget are withdrawn and made again.
   */
  lowerHops(fetch: Fetch<T>, hops: number, nowMs: number): void {
    const tooHigh = fetch.attempts.filter((attempt) => attempt.hops >= hops);
    fetch.hops = Math.min(fetch.hops, hops);
    if (tooHigh.length === 0) return;
    for (const attempt of tooHigh) {
      if (attempt.window.host !== undefined) fetch.tried.delete(attempt.window.host.peer);
      this.#end(attempt, nowMs, true);
    }
    if (fetch.attempts.length === 0) this.route(fetch, nowMs);
  }

  /** Nobody wants the block any more. */
  abandon(fetch: Fetch<T>, nowMs: number): void {
    fetch.stage = 'done';
    if (fetch.retry !== undefined) fetch.retry.action = undefined;
    while (fetch.attempts[0] !== undefined) this.#end(fetch.attempts[0], nowMs, true);
    this.#fallback.over(fetch);
    this.#nextLate(nowMs);
  }

  received(id: AttemptId, block: P, nowMs: number): void {
    const entry = this.#attempts.get(id);
    if (entry === undefined || entry.attempt.state !== 'asked') {
      this.#host.ops.release(block);
      return;
    }
    const { attempt } = entry;
    entry.block = block;
    attempt.state = 'verifying';
    noteLatency(attempt.window, nowMs - attempt.startedMs);
    noteHeard(attempt.window, nowMs, this.#host.init);
    this.#leaveWindow(attempt, nowMs);
    const { blob, index } = attempt.fetch;
    this.#host.emit({ type: 'verify', attempt: id, blob: blob.ref, index, block });
  }

  verified(id: AttemptId, verdict: Verdict, nowMs: number, checked?: P): void {
    const entry = this.#attempts.get(id);
    if (entry?.block === undefined) return;
    const { attempt, block: received } = entry;
    const block = checked ?? received;
    entry.block = undefined;
    this.#end(attempt, nowMs, false);
    if (verdict === 'good') {
      if (isHolder(attempt)) attempt.window.misses = 0;
      for (const other of attempt.fetch.attempts) if (isHolder(other)) this.#missed(other.window);
      this.#fallback.noteFetched(this.#host.ops.length(block));
      this.abandon(attempt.fetch, nowMs);
      this.#host.onBlock(attempt.fetch, block, attempt.source);
      return;
    }
    this.#host.ops.release(block);
    // Neither an unknown root nor an unknown size is the peer's fault: it just lacks the block.
    const isFault = verdict === 'bad' && attempt.window.host !== undefined;
    this.#fallback.noteNoWay(attempt);
    if (isFault) this.#punish(attempt.window, 'corrupt', nowMs);
    this.#next(attempt.fetch, nowMs);
  }

  failed(id: AttemptId, detail: PeerErrorDetail, nowMs: number): void {
    const attempt = this.#attempts.get(id)?.attempt;
    if (attempt === undefined || attempt.state === 'verifying') return;
    const { window, fetch } = attempt;
    this.#end(attempt, nowMs, false);
    if (window.host === undefined) {
      if (attempt.source === 'fallback') this.#fallback.failed(fetch);
      const isOver = fetch.stage === 'network' && fetch.attempts.length === 0;
      if (isOver) this.#roundFailed(fetch, noOf(detail), nowMs);
      this.#nextLate(nowMs);
      return;
    }
    this.#peerFailed(attempt, detail, nowMs);
  }

  /** The origin works on these: each has its patience anew, twice the longest in all. */
  progressed(ids: readonly AttemptId[], nowMs: number): void {
    for (const id of ids) {
      const attempt = this.#attempts.get(id)?.attempt;
      if (attempt?.hedge !== undefined) this.#arm(attempt, nowMs);
    }
  }

  /** Any sign of life of a peer. */
  alive(peer: PeerId, nowMs: number): void {
    const window = this.#windows.get(peer);
    if (window !== undefined) noteHeard(window, nowMs, this.#host.init);
  }

  /** The last connection to the peer closed: its requests go elsewhere. */
  peerGone(peer: PeerId, nowMs: number): void {
    const window = this.#windows.get(peer);
    if (window === undefined) return;
    const count = window.asked.size + window.demand.length + window.prefetch.length;
    if (count > 0) this.#lose(window, 'unreachable', nowMs);
  }

  onHedge(attempt: Attempt<T>, nowMs: number): void {
    attempt.hedge = undefined;
    if (isHolder(attempt)) return this.#holderLate(attempt, nowMs);
    const { fetch } = attempt;
    if (attempt.state !== 'asked' || fetch.stage !== 'network') return;
    if (attempt.window.host === undefined) {
      this.#originLate(attempt, nowMs);
      return;
    }
    if (attempt.kind !== 'demand') {
      noteLate(attempt);
      return this.#pump(attempt.window, nowMs);
    }
    if (this.#hedgesSaved >= 1 && this.route(fetch, nowMs, true)) {
      this.#hedgesSaved -= 1;
      return;
    }
    const { attemptMsMax, hedgeMsMax } = this.#host.init;
    const giveUpMs = attempt.startedMs + attemptMsMax;
    if (nowMs >= giveUpMs && this.#host.routes.isRoot(attempt.window.host.peer)) {
      // The peer is heard, so it works on the block: slow is not dead. Others are asked beside it.
      this.route(fetch, nowMs, true);
    } else if (nowMs >= giveUpMs) {
      this.#end(attempt, nowMs, true);
      this.#peerFailed(attempt, { code: 'timeout' }, nowMs);
      return;
    }
    const atMs = nowMs < giveUpMs ? Math.min(giveUpMs, nowMs + hedgeMsMax) : nowMs + attemptMsMax;
    attempt.hedge = this.#host.timers.set(atMs, { type: 'hedge', attempt });
  }

  onRetry(fetch: Fetch<T>, nowMs: number): void {
    fetch.retry = undefined;
    if (fetch.stage === 'network' && fetch.attempts.length === 0) this.route(fetch, nowMs);
  }

  onSilent(window: SourceWindow<T>, nowMs: number): void {
    if (this.#silence.isOver(window, nowMs)) this.#lose(window, 'silent', nowMs);
  }

  /** The download limit lets something pass: demand first, at any source. */
  onDownload(nowMs: number): void {
    for (const window of this.#download.onTimer()) this.#pump(window, nowMs);
  }

  /** The store is done with a block: prefetches that waited for that may go on. */
  written(lengthBytes: number, nowMs: number): void {
    for (const window of this.room.written(lengthBytes)) this.#pump(window, nowMs);
  }

  #window(host: HostAddress): SourceWindow<T> {
    const known = this.#windows.get(host.peer);
    const window = known ?? makeWindow(host);
    if (known === undefined) this.#windows.set(host.peer, window);
    // A reader was seen without an address.
    if (host.addresses.length > 0) window.host = host;
    return window;
  }

  /** A peer recently given up is tried all the same once every other source has failed. */
  #mayAsk(fetch: Fetch<T>, host: HostAddress, nowMs: number): boolean {
    if (fetch.tried.has(host.peer)) return false;
    if (fetch.waiters.some((waiter) => waiter.peer === host.peer)) return false;
    if (!isUsable(this.#window(host), nowMs, fetch.rounds > 0)) return false;
    fetch.tried.add(host.peer);
    return true;
  }

  #routeOwned(fetch: Fetch<T>, nowMs: number, hedge: boolean): boolean {
    const { ownWay } = fetch.blob;
    const mayAskHolder = !hedge && !ownWay && !fetch.tried.has('holder');
    if (mayAskHolder && this.#askHolder(fetch, nowMs)) return true;
    if (!fetch.tried.has('origin')) {
      this.#askOrigin(fetch, ownWay ? 'own-way' : 'origin', nowMs);
      return true;
    }
    if (!hedge && fetch.attempts.length === 0) this.#roundFailed(fetch, undefined, nowMs);
    return false;
  }

  /** Asks one host that says it holds the block before the registry, which follows soon after. */
  #askHolder(fetch: Fetch<T>, nowMs: number): boolean {
    fetch.tried.add('holder');
    const holders = this.#host.routes.holders(fetch.blob.ref.digest, fetch.index, nowMs);
    return this.#askIfHeld(fetch, holders, nowMs);
  }

  /**
   * No source of the block is left: asks a host that reads the stripe here, or was near this one in
   * its tree. It is asked for what it holds, and asks nobody itself, so no circle can form.
   */
  #askKin(fetch: Fetch<T>, nowMs: number): boolean {
    if (fetch.hops <= 0 || fetch.blob.ownWay) return false;
    const kin = kinOf(fetch, this.#host.routes);
    const live = kin.slice(0, KIN_MAX).filter((host) => isUsable(this.#window(host), nowMs, false));
    return this.#askIfHeld(fetch, live, nowMs);
  }

  #askIfHeld(fetch: Fetch<T>, hosts: readonly HostAddress[], nowMs: number): boolean {
    const host = hosts.find((each) => this.#mayAsk(fetch, each, nowMs));
    if (host === undefined) return false;
    const choice = { window: this.#window(host), source: 'alternate', hops: HOPS_NONE } as const;
    const attempt = this.#attempt(fetch, choice, nowMs);
    const late = { type: 'hedge', attempt } as const;
    attempt.hedge = this.#host.timers.set(nowMs + this.#host.init.holderMs, late);
    return true;
  }

  /** The holder is late: the registry or kin is asked beside it, and the holder given up later. */
  #holderLate(attempt: Attempt<T>, nowMs: number): void {
    const { fetch, window } = attempt;
    if (attempt.state === 'verifying' || attempt.state === 'done') return;
    if (!fetch.tried.has('origin')) {
      const atMs = nowMs + this.#host.init.holderMsMax;
      attempt.hedge = this.#host.timers.set(atMs, { type: 'hedge', attempt });
      if (!this.route(fetch, nowMs, true)) this.#askKin(fetch, nowMs);
      return;
    }
    this.#end(attempt, nowMs, true);
    this.#noHolder(window);
    this.#next(fetch, nowMs);
  }

  /** The peer did not give a block that it claimed to hold. */
  #noHolder({ host }: SourceWindow<T>): void {
    if (host !== undefined) this.#host.emit({ type: 'no-holder', peer: host.peer });
  }

  /** No peer is left to ask: waits for a busy one, else ends the round; after some, falls back. */
  #outOfPeers(fetch: Fetch<T>, nowMs: number): void {
    if (fetch.attempts.length > 0 || fetch.retry !== undefined) return;
    if (this.#askKin(fetch, nowMs)) return;
    const { digest } = fetch.blob.ref;
    let freeAtMs = Number.POSITIVE_INFINITY;
    for (const { host } of this.#host.routes.sources(digest, fetch.index % fetch.blob.stripes)) {
      const window = this.#window(host);
      if (fetch.tried.has(host.peer) || window.overloadedUntilMs <= nowMs) continue;
      freeAtMs = Math.min(freeAtMs, window.overloadedUntilMs);
    }
    if (freeAtMs < Number.POSITIVE_INFINITY && fetch.hops > 0) {
      fetch.retry = this.#host.timers.set(freeAtMs, { type: 'retry', fetch });
      return;
    }
    const mayAsk = !fetch.tried.has('origin') && this.#fallback.afterRound(fetch, nowMs);
    if (mayAsk) this.#askOrigin(fetch, 'fallback', nowMs);
    else this.#roundFailed(fetch, undefined, nowMs);
  }

  #roundFailed(fetch: Fetch<T>, no: OriginNo | undefined, nowMs: number): void {
    if (!this.#host.onRoundFailed(fetch, no)) {
      this.abandon(fetch, nowMs);
      return;
    }
    const { retryMsMin, retryMsMax } = this.#host.init;
    fetch.tried.clear();
    const pauseMs = backoffMs(++fetch.rounds, retryMsMin, retryMsMax);
    const atMs = nowMs + halfToAll(this.#host.random, pauseMs);
    fetch.retry = this.#host.timers.set(atMs, { type: 'retry', fetch });
  }

  #attempt(
    fetch: Fetch<T>,
    choice: { window: SourceWindow<T>; source: BlockSource; hops: number },
    nowMs: number,
  ): Attempt<T> {
    const attempt: Attempt<T> = {
      id: ++this.#attemptCount,
      fetch,
      ...choice,
      state: 'queued',
      kind: fetch.kind,
      isLate: false,
      startedMs: nowMs,
      hedge: undefined,
    };
    fetch.attempts.push(attempt);
    this.#attempts.set(attempt.id, { attempt, block: undefined });
    choice.window[attempt.kind].push(attempt);
    this.#pump(choice.window, nowMs);
    return attempt;
  }

  /** Sends the requests that fit, demand first: at this peer, or at any registry. */
  #pump(window: SourceWindow<T>, nowMs: number): void {
    for (;;) {
      const attempt = window.host ? nextOf(window, this.#host.init) : this.#origins.next();
      if (attempt === undefined || !this.room.admit(attempt)) return;
      if (!this.#download.admit(attempt, nowMs)) return;
      unqueue(attempt);
      this.#ask(attempt, nowMs);
    }
  }

  #ask(attempt: Attempt<T>, nowMs: number): void {
    const { window, fetch } = attempt;
    const { blob, index } = fetch;
    attempt.state = 'asked';
    attempt.startedMs = nowMs;
    count(attempt, this.room);
    if (window.host === undefined) {
      const { id, kind, source } = attempt as Attempt<T> & { source: OriginSource };
      this.#host.emit({ type: 'ask-origin', attempt: id, blob: blob.ref, index, kind, source });
      return this.#arm(attempt, nowMs);
    }
    if (window.asked.size === 1) window.lastHeardMs = nowMs;
    this.#silence.watch(window);
    this.#arm(attempt, nowMs);
    const request = requestOf(attempt, nowMs, this.#host.init);
    this.#host.emit({ type: 'ask', attempt: attempt.id, host: window.host, request });
  }

  /** Has patience with the source from now on. A holder has a timer of its own. */
  #arm(attempt: Attempt<T>, nowMs: number): void {
    if (isHolder(attempt)) return;
    const { init, timers } = this.#host;
    if (attempt.hedge !== undefined) attempt.hedge.action = undefined;
    attempt.hedge = timers.set(lateAtMs(attempt, nowMs, init), { type: 'hedge', attempt });
  }

  #leaveWindow(attempt: Attempt<T>, nowMs: number): void {
    const { window } = attempt;
    if (attempt.hedge !== undefined) attempt.hedge.action = undefined;
    attempt.hedge = undefined;
    if (!window.asked.delete(attempt) && !this.#origins.forget(attempt)) return;
    uncount(attempt);
    this.#pump(window, nowMs);
  }

  /** Takes the attempt off every list; with `cancel`, tells the source. */
  #end(attempt: Attempt<T>, nowMs: number, cancel: boolean): void {
    const entry = this.#attempts.get(attempt.id);
    this.#attempts.delete(attempt.id);
    if (entry?.block !== undefined) this.#host.ops.release(entry.block);
    const { window, fetch } = attempt;
    if (attempt.hedge !== undefined) attempt.hedge.action = undefined;
    if (attempt.state === 'queued') {
      const queue = window[attempt.kind];
      const at = queue.indexOf(attempt);
      if (at >= 0) queue.splice(at, 1);
    }
    const asked = attempt.state === 'asked';
    if (asked || attempt.state === 'verifying') this.room.left(attempt);
    attempt.state = 'done';
    const at = fetch.attempts.indexOf(attempt);
    if (at >= 0) fetch.attempts.splice(at, 1);
    if (asked) {
      if (cancel) this.#host.emit({ type: 'cancel', attempt: attempt.id });
      this.#leaveWindow(attempt, nowMs);
    }
  }

  /** After a failure: the next source takes the place of the failed one, also beside late ones. */
  #next(fetch: Fetch<T>, nowMs: number): void {
    this.route(fetch, nowMs, fetch.attempts.length > 0);
  }

  /** A read of the registry hangs: it stays open, and a second one on another connection. */
  #originLate(attempt: Attempt<T>, nowMs: number): void {
    const { fetch, window, source } = attempt;
    fetch.originLate++;
    if (this.#origins.leave(attempt)) this.#pump(window, nowMs);
    else this.#end(attempt, nowMs, true);
    if (fetch.attempts.filter(({ window: { host } }) => host === undefined).length > 1) return;
    this.#attempt(fetch, { window, source, hops: HOPS_NONE }, nowMs);
  }

  /** The registry was faster, or the peer is too busy. */
  #missed(window: SourceWindow<T>): void {
    if (++window.misses < HOLDER_MISSES_MAX) return;
    window.misses = 0;
    this.#noHolder(window);
  }

  #peerFailed(attempt: Attempt<T>, detail: PeerErrorDetail, nowMs: number): void {
    const { fetch, window, source } = attempt;
    if (hasNoWay(detail.code)) this.#fallback.noteNoWay(attempt);
    if (isHolder(attempt) && detail.code !== 'overloaded') this.#noHolder(window);
    switch (detail.code) {
      case 'overloaded':
        if (isHolder(attempt)) this.#missed(window);
        noteHeard(window, nowMs, this.#host.init);
        window.overloadedUntilMs = nowMs + detail.retryAfterMs;
        if (window.host !== undefined) fetch.tried.delete(window.host.peer);
        break;
      case 'unreachable':
      case 'timeout':
        this.#lose(window, detail.code === 'timeout' ? 'silent' : 'unreachable', nowMs);
        break;
      case 'protocol':
      case 'refused':
        this.#punish(window, 'protocol', nowMs);
        break;
      case 'unknown-blob':
        noteHeard(window, nowMs, this.#host.init);
        // A root that stands by need not know the blob; a parent has forgotten its trees.
        if (window.host !== undefined && source !== 'root') {
          this.#host.emit({ type: 'lost', peer: window.host.peer, reason: 'unknown-blob' });
        }
        break;
      case 'not-found':
      case 'hops':
      case 'cancelled':
        noteHeard(window, nowMs, this.#host.init);
        break;
      default:
        unreachable(detail);
    }
    this.#next(fetch, nowMs);
  }

  #punish(window: SourceWindow<T>, reason: LostReason, nowMs: number): void {
    ban(window, nowMs, this.#host.init);
    this.#lose(window, reason, nowMs);
  }

  /** Gives a peer up for a while; all its requests go elsewhere. */
  #lose(window: SourceWindow<T>, reason: LostReason, nowMs: number): void {
    window.heard = false;
    window.lostSinceMs = reason === 'silent' ? window.lastHeardMs : undefined;
    window.downUntilMs = Math.max(window.downUntilMs, nowMs + this.#host.init.downMs);
    if (window.host !== undefined) {
      this.#host.emit({ type: 'lost', peer: window.host.peer, reason });
    }
    const orphans = [...window.demand, ...window.asked, ...window.prefetch];
    window.demand.length = 0;
    window.prefetch.length = 0;
    if (orphans.some(isHolder)) this.#noHolder(window);
    for (const attempt of orphans) this.#fallback.noteNoWay(attempt);
    for (const attempt of orphans) this.#end(attempt, nowMs, true);
    for (const { fetch } of orphans) this.#next(fetch, nowMs);
  }
}
