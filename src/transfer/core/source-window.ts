import type { HostAddress } from '../../tree/messages.ts';
import { backoffMs } from '../../util/backoff.ts';
import type { Attempt, CoreInit, SourceWindow } from './core-types.ts';

/**
 * Answers over which the p95 is taken: enough to see a tail, few enough to follow a change of load.
 */
const LATENCY_COUNT = 32;

/** Time in which a silence that ended comes to count half. */
const GAP_HALVES_MS = 10_000;

/** A window of a source that has not been asked yet; `host` is undefined for the registry. */
export function makeWindow<T>(host: HostAddress | undefined): SourceWindow<T> {
  return {
    host,
    asked: new Set(),
    prefetchAsked: 0,
    prefetchLate: 0,
    demand: [],
    prefetch: [],
    row: { blob: undefined, index: 0, count: 0 },
    latenciesMs: new Float64Array(LATENCY_COUNT),
    latencyCount: 0,
    lastHeardMs: 0,
    heard: false,
    lostSinceMs: undefined,
    gapMs: 0,
    gapEndMs: 0,
    silent: undefined,
    misses: 0,
    bannedUntilMs: 0,
    bans: 0,
    downUntilMs: 0,
    overloadedUntilMs: 0,
  };
}

/** Notes a sign of life. */
export function noteHeard(
  window: SourceWindow<unknown>,
  nowMs: number,
  { silentMsMax }: Pick<CoreInit, 'silentMsMax'>,
): void {
  const sinceMs = window.lostSinceMs ?? (window.asked.size > 0 ? window.lastHeardMs : nowMs);
  const gapMs = nowMs - sinceMs;
  // Longer, and it was stopped or cut off, not short of time.
  if (gapMs <= silentMsMax && gapMs >= recentGapMs(window, nowMs)) {
    window.gapMs = gapMs;
    window.gapEndMs = nowMs;
  }
  window.lostSinceMs = undefined;
  window.lastHeardMs = nowMs;
  window.heard = true;
}

function recentGapMs({ gapMs, gapEndMs }: SourceWindow<unknown>, nowMs: number): number {
  return gapMs * 0.5 ** ((nowMs - gapEndMs) / GAP_HALVES_MS);
}

/**
 * Milliseconds that the source may say nothing, since it was last heard of, before it is given up.
 */
export function silenceMs(
  window: SourceWindow<unknown>,
  limits: Pick<CoreInit, 'silentMs' | 'silentMsMax' | 'firstSilentMs'>,
): number {
  const usualMs = window.heard ? limits.silentMs : limits.firstSilentMs;
  const patientMs = 3 * recentGapMs(window, window.lastHeardMs);
  return Math.max(usualMs, Math.min(limits.silentMsMax, patientMs));
}

/** Notes how long one answer took, in milliseconds. */
export function noteLatency(window: SourceWindow<unknown>, latencyMs: number): void {
  window.latenciesMs[window.latencyCount % LATENCY_COUNT] = latencyMs;
  window.latencyCount++;
}

/** Recent p95 of the source's times; undefined for fewer than four answers. */
function p95Ms({ latencyCount, latenciesMs }: SourceWindow<unknown>): number | undefined {
  const count = Math.min(latencyCount, LATENCY_COUNT);
  if (count < 4) return undefined;
  return latenciesMs.slice(0, count).sort()[Math.min(count - 1, Math.floor(count * 0.95))];
}

/**
 * Milliseconds to wait for the registry before a read is given up and made again; `late` reads were
 * given up before.
 */
export function originPatienceMs(
  window: SourceWindow<unknown>,
  late: number,
  limits: Pick<CoreInit, 'originMsMin' | 'originMsMax'>,
): number {
  const usualMs = Math.max(limits.originMsMin, 4 * (p95Ms(window) ?? 0));
  return Math.min(limits.originMsMax, usualMs * 2 ** Math.min(late, 16));
}

/** How long to wait for this source before the next one is asked too. */
export function hedgeDelayMs(
  window: SourceWindow<unknown>,
  limits: Pick<CoreInit, 'hedgeMsMin' | 'hedgeMsMax'>,
): number {
  const p95 = p95Ms(window);
  if (p95 === undefined) return limits.hedgeMsMax / 8;
  // Twice the p95: half of all hedges would otherwise lose to an answer already on its way.
  return Math.min(limits.hedgeMsMax, Math.max(limits.hedgeMsMin, 2 * p95));
}

/**
 * Whether the source may be asked at this time; with `evenIfDown`, also a source that was recently
 * given up.
 */
export function isUsable(
  window: SourceWindow<unknown>,
  nowMs: number,
  evenIfDown: boolean,
): boolean {
  if (nowMs < window.bannedUntilMs || nowMs < window.overloadedUntilMs) return false;
  return evenIfDown || nowMs >= window.downUntilMs;
}

/**
 * Prefetches of one blob in a row, while others wait: as many as one request of a registry brings
 * (src/transfer/drive/origin-runs.ts). (tunable)
 */
const IN_A_ROW_MAX = 16;

/** Blocks by which the next one of a row may be further: those of the other stripes. */
const STEP_MAX = 8;

/**
 * The prefetch that may go next at the source: one that goes on where the last one was, so that a
 * root finds adjacent blocks to read, in turn with those of other blobs.
 */
export function nextPrefetch<T>({ prefetch, row }: SourceWindow<T>): Attempt<T> | undefined {
  const [oldest] = prefetch;
  if (oldest === undefined || row.count % IN_A_ROW_MAX === 0) return oldest;
  const goesOn = ({ fetch: { blob, index } }: Attempt<T>): boolean =>
    blob === row.blob && index > row.index && index <= row.index + STEP_MAX;
  return prefetch.find(goesOn) ?? oldest;
}

/** Takes the attempt out of its queue. */
export function unqueue<T>(attempt: Attempt<T>): void {
  const { window, kind, fetch } = attempt;
  const queue = window[kind];
  queue.splice(queue.indexOf(attempt), 1);
  if (kind === 'demand') return;
  const { row } = window;
  const goesOn = fetch.blob === row.blob && fetch.index > row.index;
  const { blob, index } = fetch;
  window.row = { blob, index, count: goesOn ? row.count + 1 : 1 };
}

/** The request to a peer that may go next: demand first. Undefined when none may. */
export function nextOf<T>(
  window: SourceWindow<T>,
  limits: Pick<CoreInit, 'peerOutstandingMax' | 'peerPrefetchMax' | 'peerLateMax'>,
): Attempt<T> | undefined {
  const { peerOutstandingMax, peerPrefetchMax, peerLateMax } = limits;
  const { asked, demand, prefetchAsked, prefetchLate } = window;
  if (asked.size >= peerOutstandingMax) return undefined;
  const isFull = prefetchAsked + prefetchLate >= peerPrefetchMax + peerLateMax;
  const hasPlace = prefetchAsked < peerPrefetchMax && !isFull;
  return demand[0] ?? (hasPlace ? nextPrefetch(window) : undefined);
}

/** Leaves a peer alone that broke a rule; longer each time. */
export function ban(
  window: SourceWindow<unknown>,
  nowMs: number,
  limits: Pick<CoreInit, 'banMsMin' | 'banMsMax'>,
): void {
  window.bans++;
  window.bannedUntilMs = nowMs + backoffMs(window.bans, limits.banMsMin, limits.banMsMax);
}
