import { Counts } from '../../util/counts.ts';
import type { PeerId } from '../../util/peer-id.ts';
import type { Fetch, Waiter } from './core-types.ts';
import type { FetcherHost } from './fetcher-host.ts';

/** Share of the waiting reads that peers can take; the rest is for this host alone. (tunable) */
const PEERS_SHARE = 3 / 4;

interface Entry<T> {
  readonly fetch: Fetch<T>;
  readonly waiter: Waiter<T>;
}

/**
 * The reads that wait for blocks, within their bounds. Meanwhile it tells their peers that this
 * host is alive.
 */
export class Waiting<P, T> {
  readonly #host: Pick<FetcherHost<P, T>, 'init' | 'timers' | 'emit'>;
  readonly #entries = new Map<T, Entry<T>>();
  /** Number of entries that belong to peers. */
  #ofPeers = 0;
  /** Reads of each peer that wait here or are being sent. */
  readonly #peerReads = new Counts<PeerId>();
  readonly #alivePeers = new Set<PeerId>();

  constructor(host: Pick<FetcherHost<P, T>, 'init' | 'timers' | 'emit'>) {
    this.#host = host;
  }

  get count(): number {
    return this.#entries.size;
  }

  /** Whether one more read of this host may wait. */
  get hasRoom(): boolean {
    return this.#entries.size < this.#host.init.waitersMax;
  }

  /** Whether one more read of the peer may wait. */
  hasRoomFor(peer: PeerId): boolean {
    const { peerWaitersMax, waitersMax } = this.#host.init;
    if (this.#peerReads.of(peer) >= peerWaitersMax) return false;
    return this.hasRoom && this.#ofPeers < waitersMax * PEERS_SHARE;
  }

  get(token: T): Entry<T> | undefined {
    return this.#entries.get(token);
  }

  /** Reads of the peer that wait for blocks. */
  ofPeer(peer: PeerId): readonly Entry<T>[] {
    return [...this.#entries.values()].filter(({ waiter }) => waiter.peer === peer);
  }

  add(fetch: Fetch<T>, waiter: Waiter<T>): void {
    this.#entries.set(waiter.token, { fetch, waiter });
    if (waiter.peer !== undefined) this.#ofPeers++;
  }

  remove({ token, peer, timer }: Waiter<T>): void {
    if (this.#entries.delete(token) && peer !== undefined) this.#ofPeers--;
    if (timer !== undefined) timer.action = undefined;
  }

  /** A read of the peer begins; until `peerDone()` the peer hears from this host. */
  peerBegins(peer: PeerId, nowMs: number): void {
    this.#peerReads.add(peer);
    if (!this.#alivePeers.has(peer)) this.#armAlive(peer, nowMs);
  }

  peerDone(peer: PeerId): void {
    this.#peerReads.remove(peer);
  }

  onAlive(peer: PeerId, nowMs: number): void {
    this.#alivePeers.delete(peer);
    if (!this.#peerReads.has(peer)) return;
    this.#host.emit({ type: 'alive', peer });
    this.#armAlive(peer, nowMs);
  }

  #armAlive(peer: PeerId, nowMs: number): void {
    this.#alivePeers.add(peer);
    this.#host.timers.set(nowMs + this.#host.init.aliveIntervalMs, { type: 'alive', peer });
  }
}
