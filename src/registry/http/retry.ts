import type { Clock } from '../../runtime/clock.ts';
import { within } from '../../runtime/deadline.ts';
import { halfToAll, type Random } from '../../runtime/random.ts';
import { backoffMs } from '../../util/backoff.ts';
import { RegistryError, type ProtocolFault } from '../errors.ts';
import { tlsTroubleOf } from './tls-errors.ts';
import type { RegistryMetrics } from '../metrics.ts';

/** Attempts at one operation, the first included. (tunable) */
const ATTEMPTS_MAX = 5;

/**
 * Delay before the second attempt; doubled before each further one up to the cap, then drawn from
 * [half, whole]. (tunable)
 */
const BACKOFF_MS = 200;
const BACKOFF_MS_MAX = 5_000;

/**
 * A server may ask for this much patience at most; when it asks for more, or for more than the
 * deadline leaves, the caller is told at once.
 */
const RETRY_AFTER_MS_MAX = 60_000;

/**
 * Longest that one operation takes, retries and waits included, when the caller names nothing.
 * (tunable)
 */
export const TIMEOUT_MS = 30_000;

/** Bounds of one operation. */
export interface OperationOptions {
  readonly signal?: AbortSignal | undefined;
  /** Total, in milliseconds. */
  readonly timeoutMs?: number | undefined;
  /** The first included; fewer where the caller has another place to ask. */
  readonly attemptsMax?: number | undefined;
}

/** The same bounds, once an operation has begun. */
export interface OperationLimits {
  /** Aborts at the deadline and with the caller's signal. */
  readonly signal: AbortSignal;
  /** Of the clock. */
  readonly deadlineMs: number;
  readonly attemptsMax: number;
}

interface RetryComponents {
  readonly clock: Clock;
  readonly random: Random;
  readonly metrics: RegistryMetrics;
}

/**
 * Runs an operation within its deadline. Rejects with RegistryError (`timeout` at the deadline), or
 * with the reason of the caller's signal.
 */
export async function withDeadline<T>(
  { clock }: { clock: Clock },
  options: OperationOptions,
  run: (limits: OperationLimits) => Promise<T>,
): Promise<T> {
  const { signal, timeoutMs = TIMEOUT_MS, attemptsMax = ATTEMPTS_MAX } = options;
  signal?.throwIfAborted();
  const deadlineMs = clock.nowMs() + timeoutMs;
  const what = `the registry did not answer within ${Math.round(timeoutMs)} ms`;
  return within(clock, timeoutMs, (limit) => run({ signal: limit, deadlineMs, attemptsMax }), {
    signal,
    reason: () => new RegistryError(what, { code: 'timeout', timeoutMs }),
  });
}

/**
 * Answers that break the protocol are asked for once more: a second one of the same kind is the
 * answer.
 */
const REPEATED_FAULTS: ReadonlySet<ProtocolFault> = new Set<ProtocolFault>([
  'bad-coding',
  'bad-content-range',
  'no-manifest',
  'not-http',
  'page',
  'range-broken',
  'short-body',
]);

/**
 * Runs the attempt until it succeeds, fails for good, or the attempts or the time are used up;
 * rejects with the last failure. What the server says for good (4xx) is not asked again, nor a
 * request whose answer broke the protocol twice in the same way.
 */
export async function withRetries<T>(
  { clock, random, metrics }: RetryComponents,
  limits: OperationLimits,
  attempt: () => Promise<T>,
): Promise<T> {
  let before: ProtocolFault | undefined;
  for (let failures = 1; ; failures++) {
    try {
      return await attempt();
    } catch (error) {
      limits.signal.throwIfAborted();
      if (!(error instanceof RegistryError) || failures === limits.attemptsMax) throw error;
      const fault = 'fault' in error.detail ? error.detail.fault : undefined;
      const isRepeated = fault !== undefined && REPEATED_FAULTS.has(fault) && fault !== before;
      before = fault;
      if (!isRepeated && !isPassing(error)) throw error;
      const delayMs = retryDelayMs(error, failures, random);
      if (delayMs === undefined || clock.nowMs() + delayMs >= limits.deadlineMs) throw error;
      metrics.retries.inc({ code: error.code });
      await clock.sleep(delayMs, limits.signal);
    }
  }
}

/**
 * Milliseconds to wait after this many failures, the last being `error`; undefined when the server
 * wants to be left alone for too long.
 */
function retryDelayMs(error: RegistryError, failures: number, random: Random): number | undefined {
  const { detail } = error;
  const pauseMs = halfToAll(random, backoffMs(failures, BACKOFF_MS, BACKOFF_MS_MAX));
  const afterMs = 'retryAfterMs' in detail ? (detail.retryAfterMs ?? 0) : 0;
  return afterMs > RETRY_AFTER_MS_MAX ? undefined : Math.max(pauseMs, afterMs);
}

/** Whether the same request may be answered in a moment. */
export function isPassing(error: unknown): boolean {
  if (!(error instanceof RegistryError)) return false;
  const { detail } = error;
  switch (detail.code) {
    case 'rate-limited':
    case 'timeout':
      return true;
    case 'unavailable':
      return tlsTroubleOf(error.cause) === undefined;
    case 'protocol':
      return detail.fault === 'cut-body';
    default:
      return false;
  }
}
