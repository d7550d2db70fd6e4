import { backoffMs } from '../../util/backoff.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import type { PeerId } from '../../util/peer-id.ts';

/**
 * Milliseconds that a host waits for the answer to a call before it asks the next host too: the
 * recent p95 of such calls, within these bounds (tunable). Answers from memory take a few
 * milliseconds; beyond a second the caller of the caller begins to notice.
 */
export const PATIENCE_MS_MIN = 300;
/** Upper bound of the patience; see `PATIENCE_MS_MIN`. */
export const PATIENCE_MS_MAX = 1_000;

/** Number of recent answers that give the p95 of a call: the second longest of them. */
const RECENT_ANSWERS = 32;

/** A silent peer is asked last for this long, doubled each time that it is silent again. */
export const SILENT_MS_MIN = 1_000;
/** Upper bound of the time that a silent peer is asked last; see `SILENT_MS_MIN`. */
export const SILENT_MS_MAX = 30_000;

/** Hedges that may be saved up, and how much of one each call earns: 5 % of calls, as of blocks. */
const HEDGES_SAVED_MAX = 10;
const HEDGES_PER_CALL = 0.05;

/** Peers remembered as silent; roots and relays are a handful. */
const PEERS_MAX = 1_024;

/** What a failed call says of the peer. */
export type LifeSign = 'silent' | 'heard';

interface Lapse {
  /** It showed no sign of life; else another peer only answered before it. */
  readonly silent: boolean;
  /** It is asked last until then. */
  readonly untilMs: number;
  readonly count: number;
}

/**
 * A host's memory of the peers that it calls: which were silent or late, and how long answers take.
 * Only silence counts: a peer that refuses, or that sheds load, lives. Synchronous; time is passed
 * in.
 */
export class PeerHealth {
  readonly #lapses = new BoundedMap<PeerId, Lapse>({ entriesMax: PEERS_MAX });
  readonly #tookMs = new Map<string, number[]>();
  #hedges = HEDGES_SAVED_MAX;
  /** Called at each silence. */
  onSilent: (peer: PeerId) => void = () => {};

  /** The peer said something. */
  heard(peer: PeerId): void {
    this.#lapses.delete(peer);
  }

  /** The peer showed no sign of life in time. Several calls that fail together are one silence. */
  silent(peer: PeerId, nowMs: number): void {
    this.#lapsed(peer, nowMs, true);
    this.onSilent(peer);
  }

  /** Another peer that was asked later answered before this one, which may live and work. */
  late(peer: PeerId, nowMs: number): void {
    this.#lapsed(peer, nowMs, false);
  }

  /** Whether the last that is known of the peer is that it showed no sign of life. */
  isSilent(peer: PeerId): boolean {
    return this.#lapses.get(peer)?.silent ?? false;
  }

  /**
   * The peers as they are best asked: as they came, the silent and late ones last until they are
   * due again.
   */
  order(peers: readonly PeerId[], nowMs: number): readonly PeerId[] {
    const isLeftAlone = (peer: PeerId): boolean => nowMs < (this.#lapses.get(peer)?.untilMs ?? 0);
    return [...peers.filter((peer) => !isLeftAlone(peer)), ...peers.filter(isLeftAlone)];
  }

  /** A call of this name begins: it earns a part of a hedge. */
  called(): void {
    this.#hedges = Math.min(HEDGES_SAVED_MAX, this.#hedges + HEDGES_PER_CALL);
  }

  /** The peer answered the call, also by a refusal. */
  answered(peer: PeerId, call: string, tookMs: number): void {
    this.heard(peer);
    const recent = this.#tookMs.get(call) ?? [];
    this.#tookMs.set(call, recent);
    recent.push(tookMs);
    if (recent.length > RECENT_ANSWERS) recent.shift();
  }

  /** How long the answer to the call is waited for before the next host is asked too. */
  patienceMs(call: string): number {
    const recent = (this.#tookMs.get(call) ?? []).toSorted((a, b) => a - b);
    const p95 = recent[Math.floor(recent.length * 0.95)] ?? 0;
    return Math.min(PATIENCE_MS_MAX, Math.max(PATIENCE_MS_MIN, p95));
  }

  /** Takes a hedge, if there is one left. */
  takeHedge(): boolean {
    if (this.#hedges < 1) return false;
    this.#hedges--;
    return true;
  }

  #lapsed(peer: PeerId, nowMs: number, silent: boolean): void {
    const before = this.#lapses.get(peer);
    if (before !== undefined && nowMs < before.untilMs) {
      if (silent && !before.silent) this.#lapses.set(peer, { ...before, silent });
      return;
    }
    const count = (before?.count ?? 0) + 1;
    const forMs = backoffMs(count, SILENT_MS_MIN, SILENT_MS_MAX);
    const wasSilent = before?.silent ?? false;
    this.#lapses.set(peer, { silent: silent || wasSilent, count, untilMs: nowMs + forMs });
  }
}
