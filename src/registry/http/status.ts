import { RegistryError } from '../errors.ts';
import type { HttpHead } from './message.ts';
import { parseRetryAfter } from './retry-after.ts';

/** Characters of a server's own words that go into an error. */
const WORDS_LENGTH_MAX = 200;

interface StatusInit {
  readonly head: HttpHead;
  /** What was asked of whom. */
  readonly what: string;
  /** Of the body, as far as it was read. */
  readonly text: string;
  readonly wallMs: number;
}

/** The error for a status that is no success. */
export function statusError({ head, what, text, wallMs }: StatusInit): RegistryError {
  const { status } = head;
  const words = serverWords(text);
  const message = `${what}: status ${status}${words === '' ? '' : ` (${words})`}`;
  const retryAfterMs = parseRetryAfter(head.headers['retry-after'], wallMs);
  if (status === 401) return new RegistryError(message, { code: 'unauthorized', status });
  if (status === 403) return new RegistryError(message, { code: 'denied', status });
  if (status === 404 || status === 410) {
    return new RegistryError(message, { code: 'not-found', status });
  }
  if (status === 429) return new RegistryError(message, { code: 'rate-limited', retryAfterMs });
  if (status === 408 || status === 425 || status >= 500) {
    return new RegistryError(message, { code: 'unavailable', status, retryAfterMs });
  }
  const fault = 'unexpected-status';
  return new RegistryError(message, { code: 'protocol', fault, status });
}

/**
 * Code and message of the first error in the distribution spec's error format ("Error Codes");
 * empty when there is none.
 */
function serverWords(text: string): string {
  try {
    const { errors } = JSON.parse(text) as { errors?: { code?: unknown; message?: unknown }[] };
    const { code, message } = errors?.[0] ?? {};
    const words = [code, message].filter((word) => typeof word === 'string').join(': ');
    return words.replaceAll(/[^ -~]/g, '?').slice(0, WORDS_LENGTH_MAX);
  } catch {
    return '';
  }
}
