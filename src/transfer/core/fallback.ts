import { blockLength } from '../../image/block.ts';
import type { PeerErrorDetail } from '../contracts/transport.ts';
import type { HostAddress } from '../../tree/messages.ts';
import type { Attempt, CoreInit, Fetch, Routes, SourceWindow, Waiter } from './core-types.ts';

/** A timer that is this late, in milliseconds, shows that this host itself stood still. */
const STANDSTILL_MS = 150;

/**
 * Time to read the messages that peers sent meanwhile, before any peer is judged by it: a turn of
 * the event loop or two.
 */
const GRACE_MS = 20;

/**
 * State of the roots for one block. `lost`: no root can be reached, or none has a way to the blob.
 * `working`: a root has the read, or says that it will take it later.
 */
type RootsState = 'lost' | 'idle' | 'working';

type Limits = Pick<
  CoreInit,
  'fallbackRounds' | 'fallbackShare' | 'fallbackBytesMin' | 'fallbackLate'
>;

/**
 * Decides when a host that does not own a block may read it from the registry itself, as the last
 * resort of its own demand reads.
 *
 * - No root can be reached, or none has a way to the blob: as soon as every source failed in
 *   `fallbackRounds` rounds.
 * - Roots are reached and do not give the block: likewise, but only for the share `fallbackShare`
 *   of all bytes that this host fetches, and for `fallbackBytesMin` at least. Not at all while a
 *   root works on the block: slow is not dead, and an overloaded cluster must not turn on the
 *   registry.
 * - The part `fallbackLate` of a read's time has passed: the registry is read all the same, but one
 *   block at a time beyond the above.
 */
export class Fallback<T> {
  readonly #limits: Limits;
  readonly #routes: Pick<Routes, 'sources' | 'isRoot'>;
  readonly #windowOf: (host: HostAddress) => SourceWindow<T>;
  #fetchedBytes = 0;
  #spentBytes = 0;
  /** Blocks whose reads are late and wait for their turn; the first late block comes first. */
  readonly #late = new Set<Fetch<T>>();
  /** The late block whose turn it is. */
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

  /** Bytes of a block came to this host, from any source. */
  noteFetched(lengthBytes: number): void {
    this.#fetchedBytes += lengthBytes;
  }

  /** Time at which a read is late. */
  lateMs({ startedMs, deadlineMs }: Waiter<T>): number {
    return startedMs + (deadlineMs - startedMs) * this.#limits.fallbackLate;
  }

  /**
   * Every source failed in this round. Returns whether the registry may be asked now; the fetch
   * then counts as asked.
   */
  afterRound(fetch: Fetch<T>, nowMs: number): boolean {
    const isLocal = fetch.waiters.some(({ peer, kind }) => peer === undefined && kind === 'demand');
    if (!isLocal || fetch.rounds < this.#limits.fallbackRounds) return false;
    return this.#mayAsk(fetch, nowMs);
  }

  /**
   * A read is late. Returns whether the registry may be asked now; the fetch then counts as asked.
   * Otherwise its turn comes with `next()`.
   */
  whenLate(fetch: Fetch<T>, nowMs: number): boolean {
    if (this.#mayAsk(fetch, nowMs)) return true;
    this.#late.add(fetch);
    return false;
  }

  /**
   * The late block whose turn it is now; undefined when none is late, or another block has the
   * turn.
   */
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

  /** The registry failed: the read costs nothing. */
  failed(fetch: Fetch<T>): void {
    this.#spentBytes -= lengthOf(fetch);
    this.over(fetch);
  }

  /** The block came, nobody wants it any more, or the registry failed; then call `next()`. */
  over(fetch: Fetch<T>): void {
    this.#late.delete(fetch);
    if (this.#turn === fetch) this.#turn = undefined;
  }

  /**
   * A peer's part in this fetch came to nothing. If the peer is a root, the fetch need not wait for
   * its word.
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

  /** State of the roots for a fetch: by its attempts in flight, and by what each root said last. */
  #rootsState(fetch: Fetch<T>, nowMs: number): RootsState {
    // A peer that is heard works on the block for this host, or waits for another host above that
    // does.
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
 * Whether a root that failed with this code has no way to the block, or cannot be reached, for this
 * fetch.
 */
export function hasNoWay(code: PeerErrorDetail['code']): boolean {
  return code !== 'overloaded' && code !== 'hops' && code !== 'cancelled';
}

/** Tells when this host itself stood still: that time is no silence of its peers. */
export class Standstill {
  #graceEndMs = 0;

  /**
   * Whether the timers that are due must wait for a moment, because the host stood still: messages
   * that peers sent meanwhile come first.
   */
  mustWait(dueMs: number, nowMs: number): boolean {
    if (nowMs < this.#graceEndMs) return true;
    if (!stoodStill(Math.max(dueMs, this.#graceEndMs), nowMs)) return false;
    this.#graceEndMs = nowMs + GRACE_MS;
    return true;
  }

  /** When the timers that are due run. */
  nextMs(dueMs: number | undefined): number | undefined {
    return dueMs === undefined ? undefined : Math.max(dueMs, this.#graceEndMs);
  }
}

/** Whether this host itself was too late to run a timer in time. */
export function stoodStill(dueMs: number, nowMs: number): boolean {
  return nowMs - dueMs > STANDSTILL_MS;
}
