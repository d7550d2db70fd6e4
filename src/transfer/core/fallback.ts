import { blockLength } from '../../image/block.ts';
import type { PeerErrorDetail } from '../contracts/transport.ts';
import type { HostAddress } from '../../tree/messages.ts';
import type { Attempt, CoreInit, Fetch, Routes, SourceWindow, Waiter } from './core-types.ts';

/** Time by which a timer is late when it was this host itself that stood still, in milliseconds. */
const STANDSTILL_MS = 150;

/**
 * Time in which what peers said meanwhile is read, before anybody is judged by it: a turn of the
 * event loop or two.
 */
const GRACE_MS = 20;

/**
 * How it stands with the roots, for one block. `lost`: none can be reached, or has a way to the
 * blob. `working`: one has the read, or says that it will take it later.
 */
type RootsState = 'lost' | 'idle' | 'working';

type Limits = Pick<
  CoreInit,
  'fallbackRounds' | 'fallbackShare' | 'fallbackBytesMin' | 'fallbackLate'
>;

/**
 * When a host that does not own a block may read it from the registry itself, as the last resort of
 * one of its own demand reads.
 *
 * - Roots that cannot be reached, or have no way to the blob: as soon as every source failed in
 *   `fallbackRounds` rounds.
 * - Roots that are reached and do not give it: likewise, but of all bytes that this host fetches a
 *   share, `fallbackShare`, and `fallbackBytesMin` at least. While one of them works on the block,
 *   not at all: slow is not dead, and a cluster that has too much to do must not turn on the
 *   registry.
 * - Once `fallbackLate` of a read's time is over: all the same, but one block at a time beyond the
 *   above.
 */
export class Fallback<T> {
  readonly #limits: Limits;
  readonly #routes: Pick<Routes, 'sources' | 'isRoot'>;
  readonly #windowOf: (host: HostAddress) => SourceWindow<T>;
  #fetchedBytes = 0;
  #spentBytes = 0;
  /** Blocks whose reads are late, and which wait for their turn; the first to be late first. */
  readonly #late = new Set<Fetch<T>>();
  /** The one whose turn it is. */
  #turn: Fetch<T> | undefined;

  constructor(components: {
    readonly init: Limits;
    readonly routes: Pick<Routes, 'sources' | 'isRoot'>;
    readonly windowOf: (host: HostAddress) => SourceWindow<T>;
  }) {
    this.#limits = components.init;
    this.#routes = components.routes;
    this.#windowOf = components.windowOf;
  }

  /** Bytes of a block came to this host, from wherever. */
  noteFetched(lengthBytes: number): void {
    this.#fetchedBytes += lengthBytes;
  }

  /** When a read is late. */
  lateMs({ startedMs, deadlineMs }: Waiter<T>): number {
    return startedMs + (deadlineMs - startedMs) * this.#limits.fallbackLate;
  }

  /**
   * Every source failed in this round. Whether the registry may be asked now; it counts as asked
   * then.
   */
  afterRound(fetch: Fetch<T>, nowMs: number): boolean {
    const isLocal = fetch.waiters.some(({ peer, kind }) => peer === undefined && kind === 'demand');
    if (!isLocal || fetch.rounds < this.#limits.fallbackRounds) return false;
    return this.#mayAsk(fetch, nowMs);
  }

  /**
   * A read is late. Whether the registry may be asked now; it counts as asked then. Else its turn
   * comes: `next()`.
   */
  whenLate(fetch: Fetch<T>, nowMs: number): boolean {
    if (this.#mayAsk(fetch, nowMs)) return true;
    this.#late.add(fetch);
    return false;
  }

  /** The late block whose turn it is now; undefined when there is none, or another one has it. */
  next(): Fetch<T> | undefined {
    if (this.#turn !== undefined) return undefined;
    for (const fetch of this.#late) {
      this.#late.delete(fetch);
      if (fetch.stage !== 'network' || fetch.tried.has('origin')) continue;
      this.#spentBytes += lengthOf(fetch);
      this.#turn = fetch;
      return fetch;
    }
    return undefined;
  }

  /** The registry failed: it costs nothing. */
  failed(fetch: Fetch<T>): void {
    this.#spentBytes -= lengthOf(fetch);
    this.over(fetch);
  }

  /** The block came, or nobody wants it any more, or the registry failed; then `next()`. */
  over(fetch: Fetch<T>): void {
    this.#late.delete(fetch);
    if (this.#turn === fetch) this.#turn = undefined;
  }

  /**
   * What was asked of the peer for this fetch came to nothing: if it is a root, the fetch need not
   * wait for its word.
   */
  noteNoWay({ fetch, window: { host } }: Attempt<T>): void {
    if (host !== undefined && this.#routes.isRoot(host.peer)) fetch.withoutWay.add(host.peer);
  }

  #mayAsk(fetch: Fetch<T>, nowMs: number): boolean {
    const roots = this.#rootsState(fetch, nowMs);
    if (roots === 'working') return false;
    const { fallbackShare, fallbackBytesMin } = this.#limits;
    const spentBytes = this.#spentBytes + lengthOf(fetch);
    const budgetBytes = Math.max(fallbackBytesMin, fallbackShare * this.#fetchedBytes);
    if (roots === 'idle' && spentBytes > budgetBytes) return false;
    this.#spentBytes = spentBytes;
    return true;
  }

  /** How it stands with the roots for a fetch: by what is under way, and by what each said last. */
  #rootsState(fetch: Fetch<T>, nowMs: number): RootsState {
    // A peer that is heard works on the block for this host, or waits for somebody above that does.
    const isAwaited = ({ window, state }: Attempt<T>): boolean =>
      window.host !== undefined && window.heard && state === 'asked';
    if (fetch.attempts.some(isAwaited)) return 'working';
    const { blob, index } = fetch;
    const roots = this.#routes
      .sources(blob.ref.digest, index % blob.stripes)
      .filter(({ host }) => this.#routes.isRoot(host.peer))
      .map(({ host }) => ({ peer: host.peer, window: this.#windowOf(host) }));
    if (roots.some(({ window }) => nowMs < window.overloadedUntilMs)) return 'working';
    const isLost = ({ peer, window }: (typeof roots)[number]): boolean =>
      fetch.withoutWay.has(peer) || nowMs < Math.max(window.downUntilMs, window.bannedUntilMs);
    return roots.every(isLost) ? 'lost' : 'idle';
  }
}

function lengthOf({ blob, index }: Fetch<unknown>): number {
  return blockLength(blob.ref.sizeBytes, index);
}

/**
 * Whether a root that failed so has no way to the block, or cannot be reached, as far as this fetch
 * goes.
 */
export function hasNoWay(code: PeerErrorDetail['code']): boolean {
  return code !== 'overloaded' && code !== 'hops' && code !== 'cancelled';
}

/** Tells when this host itself stood still: that time is no silence of its peers. */
export class Standstill {
  #graceEndMs = 0;

  /**
   * Whether what is due waits for a moment, since the host stood still: what peers said meanwhile
   * comes first.
   */
  mustWait(dueMs: number, nowMs: number): boolean {
    if (nowMs < this.#graceEndMs) return true;
    if (!stoodStill(Math.max(dueMs, this.#graceEndMs), nowMs)) return false;
    this.#graceEndMs = nowMs + GRACE_MS;
    return true;
  }

  /** When what is due is done. */
  nextMs(dueMs: number | undefined): number | undefined {
    return dueMs === undefined ? undefined : Math.max(dueMs, this.#graceEndMs);
  }
}

/** Whether it was this host that kept a timer from being heard in time. */
export function stoodStill(dueMs: number, nowMs: number): boolean {
  return nowMs - dueMs > STANDSTILL_MS;
}
