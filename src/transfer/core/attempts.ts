import type { OriginNo } from '../contracts/origin.ts';
import type { BlockRequest, PeerErrorDetail } from '../contracts/transport.ts';
import { hedgeDelayMs, originPatienceMs } from './source-window.ts';
import type { Attempt, CoreInit } from './core-types.ts';
import type { StoreRoom } from './store-room.ts';

/** Hops of an attempt that waits for no peer: at the registry, or at a holder of the block. */
export const HOPS_NONE = -1;

/** Whether the peer is asked because it says that it holds the block. */
export function isHolder({ window, hops }: Attempt<unknown>): boolean {
  return window.host !== undefined && hops === HOPS_NONE;
}

/** The request to the peer: to wait as long as the most patient reader that waits here. */
export function requestOf(
  { fetch, kind, hops }: Attempt<unknown>,
  nowMs: number,
  { hedgeMsMax }: CoreInit,
): BlockRequest {
  const deadlinesMs = fetch.waiters.map(({ deadlineMs }) => deadlineMs);
  const timeoutMs = Math.ceil(Math.max(nowMs + hedgeMsMax, ...deadlinesMs) - nowMs);
  const { digest } = fetch.blob.ref;
  return { digest, index: fetch.index, kind, hops: Math.max(0, hops), timeoutMs };
}

/** Marks a prefetch in flight as late: its place at the peer is free for another. */
export function noteLate(attempt: Attempt<unknown>): void {
  attempt.isLate = true;
  attempt.window.prefetchAsked--;
  attempt.window.prefetchLate++;
}

/** Counts an attempt as in flight. */
export function count<T>(attempt: Attempt<T>, room: StoreRoom<T>): void {
  const { window, kind } = attempt;
  window.asked.add(attempt);
  if (kind === 'prefetch') window.prefetchAsked++;
  room.asked(attempt);
}

/** Counts an attempt in flight as a prefetch no longer: it ended, or was promoted. */
export function uncount({ kind, isLate, window }: Attempt<unknown>): void {
  if (kind !== 'prefetch') return;
  if (isLate) window.prefetchLate--;
  else window.prefetchAsked--;
}

/** When an attempt is late that is asked, or makes progress, now; in milliseconds. */
export function lateAtMs(attempt: Attempt<unknown>, nowMs: number, init: CoreInit): number {
  const { window, fetch, kind } = attempt;
  if (window.host === undefined) {
    const patienceMs = originPatienceMs(window, fetch.originLate, init);
    return Math.min(nowMs + patienceMs, attempt.startedMs + 2 * init.originMsMax);
  }
  if (kind === 'prefetch') return nowMs + init.prefetchMsMax;
  // Each late source halves the time of the next one: a partition takes away many at once.
  const others = fetch.attempts.length - 1;
  const usualMs = hedgeDelayMs(window, init);
  return nowMs + Math.max(init.hedgeMsMin, usualMs / 2 ** Math.max(0, others));
}

/** The definite no of a registry, if the failure of its read is one. */
export function noOf(detail: PeerErrorDetail): OriginNo | undefined {
  const { code } = detail;
  if (code === 'protocol' && detail.isContent === true) return 'bad-content';
  if (code === 'overloaded') return 'limited';
  return code === 'not-found' || code === 'refused' || code === 'protocol' ? code : undefined;
}
