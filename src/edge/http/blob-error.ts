import { CodedError } from '../../util/errors.ts';

/**
 * Why a client of this host does not get something.
 *
 * - `not-found`, `unauthorized`, `denied`, `rate-limited`: so says the registry.
 * - `unavailable`: it may be had elsewhere, or later. `unchecked`: nobody could tell whether this
 *   client may read it.
 * - `bad-content`: what came is not what its digest names. `timeout`: nothing came in time.
 *   `overloaded`: a bound of this host is reached.
 * - `internal`: a mistake of the agent, whose text is for the log alone.
 */
export interface BlobErrorDetail {
  readonly code:
    | 'bad-content'
    | 'denied'
    | 'internal'
    | 'not-found'
    | 'overloaded'
    | 'rate-limited'
    | 'timeout'
    | 'unauthorized'
    | 'unavailable'
    | 'unchecked';
  /** Of `unauthorized` and `denied`: the WWW-Authenticate headers of the registry. */
  readonly challenges?: readonly string[];
  /** Of `rate-limited` and `overloaded`: when to ask again, where that is known. */
  readonly retryAfterMs?: number;
}

/** A client of this host does not get what it asks for. */
export class BlobError extends CodedError<BlobErrorDetail> {}

/** A bound is reached: `what` says which. */
export function overloadedError(what: string): BlobError {
  return new BlobError(what, { code: 'overloaded', retryAfterMs: 1000 });
}

/** The headers that belong to the error, whatever the body. */
export function errorHeaders(detail: BlobErrorDetail): Record<string, string | string[]> {
  const { code, challenges = [], retryAfterMs = 0 } = detail;
  const isLater = code === 'rate-limited' || code === 'overloaded';
  return {
    ...(challenges.length > 0 && { 'www-authenticate': [...challenges] }),
    ...(isLater && { 'retry-after': String(Math.ceil(retryAfterMs / 1000) || 1) }),
  };
}
