import { CodedError } from '../util/errors.ts';
import type { TlsTrouble } from './http/tls-errors.ts';

/** What a server did that HTTP or the distribution spec does not allow, or that is refused here. */
export type ProtocolFault =
  | 'bad-challenge'
  | 'bad-coding'
  | 'bad-content-range'
  | 'bad-json'
  | 'bad-location'
  | 'bad-token'
  | 'cut-body'
  | 'forbidden-address'
  | 'no-digest'
  | 'no-manifest'
  | 'no-size'
  | 'not-http'
  | 'page'
  | 'range-broken'
  | 'range-ignored'
  | 'short-body'
  | 'too-many-redirects'
  | 'unexpected-status';

/**
 * Why a registry did not give, or take, what was asked.
 *
 * - `invalid-reference`: the text names no image, or the names break the grammar of the
 *   distribution spec.
 * - `unauthorized` (401 after all that the credentials allow), `denied` (403), `not-found` (404):
 *   asking again soon changes nothing.
 * - `rate-limited` (429), `unavailable` (no connection, or 5xx), `timeout`: retries are used up;
 *   later may do.
 * - `protocol`: the answer breaks the protocol. `digest-mismatch`, `too-large`: it is refused.
 *   `no-platform`: an index without the image for this host.
 * - `overloaded`: too many of our requests wait for the registry. `closed`: the client was closed.
 */
export type RegistryErrorDetail =
  | { readonly code: 'invalid-reference'; readonly reference: string }
  | {
      readonly code: 'unauthorized' | 'denied' | 'not-found';
      readonly status: number;
      /** Of `unauthorized`: what the server's WWW-Authenticate header says, where it sent one. */
      readonly challenge?: string | undefined;
    }
  | { readonly code: 'rate-limited'; readonly retryAfterMs: number | undefined }
  | {
      readonly code: 'unavailable';
      readonly status?: number;
      readonly retryAfterMs?: number | undefined;
      /** The server speaks TLS in another way than it should; the text says what to do. */
      readonly tls?: TlsTrouble;
    }
  | { readonly code: 'timeout'; readonly timeoutMs: number }
  | {
      readonly code: 'protocol';
      readonly fault: ProtocolFault;
      /** Of `unexpected-status`, where it is known. */
      readonly status?: number;
    }
  | { readonly code: 'digest-mismatch'; readonly expected: string; readonly actual: string }
  | { readonly code: 'too-large'; readonly sizeBytesMax: number }
  | { readonly code: 'no-platform' }
  | { readonly code: 'overloaded' }
  | { readonly code: 'closed' };

/**
 * A registry did not give, or take, what was asked. Its text holds no credential, no token and no
 * query of a URL.
 */
export class RegistryError extends CodedError<RegistryErrorDetail> {}

/** For an answer that breaks the protocol. */
export function protocolError(fault: ProtocolFault, what: string, cause?: unknown): RegistryError {
  return new RegistryError(what, { code: 'protocol', fault }, { cause });
}
