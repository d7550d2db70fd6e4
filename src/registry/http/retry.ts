import type { Clock } from '../../runtime/clock.ts';
import { within } from '../../runtime/deadline.ts';
import { halfToAll, type Random } from '../../runtime/random.ts';
import { backoffMs } from '../../util/backoff.ts';
import { RegistryError, type ProtocolFault } from '../errors.ts';
import { tlsTroubleOf } from './tls-errors.ts';
import type { RegistryMetrics } from '../metrics.ts';

/** Attempts at one operation, the first included. (tunable) */
export const ATTEMPTS_MAX = 5;

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
export const RETRY_AFTER_MS_MAX = 60_000;

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
  /** The caller itself asks once more beside what is silent for long. */
  readonly isAlone?: boolean | undefined;
}

/** The same bounds, once an operation has begun. */
export interface OperationLimits {
  /** Aborts at the deadline and with the caller's signal. */
  readonly signal: AbortSignal;
  /** Of the clock. */
  readonly deadlineMs: number;
  readonly attemptsMax: number;
}

/** What retries need. */
export interface RetryComponents {
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

/** What an operation was last told that breaks the protocol. */
export class FaultMemory {
  #before: ProtocolFault | undefined;

  /** Whether to ask once more: the answer was not like the one before it. */
  isNew(error: RegistryError): boolean {
    const fault = 'fault' in error.detail ? error.detail.fault : undefined;
    const isNew = fault !== undefined && REPEATED_FAULTS.has(fault) && fault !== this.#before;
    this.#before = fault;
    return isNew;
  }
}

/**
 * Runs the attempt until it succeeds, fails for good, or the attempts or the time are used up;
 * rejects with the last failure. What the server says for good (4xx) is not asked again, nor a
 * request whose answer broke the protocol twice in the same way.
 */
export async function withRetries<T>(
  components: RetryComponents,
  limits: OperationLimits,
  attempt: () => Promise<T>,
): Promise<T> {
  const faults = new FaultMemory();
  for (let failures = 1; ; failures++) {
    try {
      return await attempt();
    } catch (error) {
      await pauseAfter(components, limits, { error, failures, faults });
    }
  }
}

/**
 * Waits before the next attempt after this failure, or throws it where there is to be none. An
 * answer that breaks the protocol is asked for again at once.
 */
export async function pauseAfter(
  { clock, random, metrics }: RetryComponents,
  limits: OperationLimits,
  failure: { readonly error: unknown; readonly failures: number; readonly faults: FaultMemory },
): Promise<void> {
  const { error, failures, faults } = failure;
  limits.signal.throwIfAborted();
  if (!(error instanceof RegistryError) || failures === limits.attemptsMax) throw error;
  const isFault = faults.isNew(error);
  if (!isPassing(error)) {
    if (!isFault) throw error;
    // The server is not short of anything.
    return metrics.retries.inc({ code: error.code });
  }
  const afterMs = comesBackMs(error) ?? 0;
  const pauseMs = pauseMsOf(random, failures);
  const delayMs = Math.max(pauseMs, afterMs);
  const isTooLong = afterMs > RETRY_AFTER_MS_MAX || clock.nowMs() + delayMs >= limits.deadlineMs;
  if (isTooLong) throw error;
  metrics.retries.inc({ code: error.code });
  await clock.sleep(delayMs, limits.signal);
}

/** Milliseconds to wait after this number of failures, when the server says nothing. */
export function pauseMsOf(random: Random, failures: number): number {
  return halfToAll(random, backoffMs(failures, BACKOFF_MS, BACKOFF_MS_MAX));
}

/** For how long the server wants to be left alone, in milliseconds, where it said so. */
export function comesBackMs({ detail }: RegistryError): number | undefined {
  return 'retryAfterMs' in detail ? detail.retryAfterMs : undefined;
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
