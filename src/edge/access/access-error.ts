import type { UrlHead } from '../../registry/url-client.ts';
import { CodedError } from '../../util/errors.ts';

/**
 * Why a local client may not read a blob.
 *
 * - `unauthorized` (401), `denied` (403), `not-found` (404): so says the registry; `challenges`:
 *   its WWW-Authenticate headers.
 * - `rate-limited` (429): the registry asks for patience.
 * - `other-content`: the URL yields something of another size than the blob.
 * - `unsound`: its answer says nothing, or it may not be asked, and asking again changes nothing.
 * - `unchecked` (503): neither a root nor the registry gave a verdict, and no older one counts.
 */
export class AccessError extends CodedError<
  | { readonly code: 'unauthorized' | 'denied'; readonly challenges: readonly string[] }
  | { readonly code: 'rate-limited'; readonly retryAfterMs: number }
  | { readonly code: 'not-found' | 'other-content' | 'unsound' }
  /** `status`: what the origin answered, if it did. */
  | { readonly code: 'unchecked'; readonly status?: number }
> {}

/** What an answer that is no success says about the right to read. The text names no query. */
export function refusalOf(answer: UrlHead, { registry }: { registry: string }): AccessError {
  const { status } = answer;
  const what = notOpened(registry, status);
  const header: string | readonly string[] = answer.headers['www-authenticate'] ?? [];
  const challenges = typeof header === 'string' ? [header] : header;
  if (status === 401) return new AccessError(what, { code: 'unauthorized', challenges });
  if (status === 403) return new AccessError(what, { code: 'denied', challenges });
  if (status === 404 || status === 410) {
    return new AccessError(`${registry} has no such blob`, { code: 'not-found' });
  }
  if (status === 429) {
    const seconds = Number(answer.headers['retry-after'] ?? 1);
    const retryAfterMs = Number.isFinite(seconds) ? seconds * 1000 : 1000;
    const text = `${registry} answered 429 to this request`;
    return new AccessError(text, { code: 'rate-limited', retryAfterMs });
  }
  return new AccessError(`${registry} answered ${status}, which says nothing`, {
    code: 'unchecked',
    status,
  });
}

/** What a client is told that shows too little, or nothing. */
export function notOpened(registry: string, status: number): string {
  return `${registry} answered ${status}: this request has no credentials that open the repository`;
}

/**
 * Statuses that say nothing of what was shown: the server was too slow, or too early, or sent
 * content that it did not name this time.
 */
const PASSING = new Set([200, 206, 408, 425]);

/**
 * Whether the origin said no to what was shown, and will again, rather than nothing for now. A
 * status without a meaning here, such as 202 or 304, is a no too.
 */
export function isNo(error: unknown): error is AccessError {
  if (!(error instanceof AccessError) || error.code === 'rate-limited') return false;
  if (error.detail.code !== 'unchecked') return true;
  const { status = 0 } = error.detail;
  return status > 0 && status < 500 && !PASSING.has(status);
}
