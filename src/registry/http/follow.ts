import { protocolError } from '../errors.ts';
import { readLocation } from './location.ts';
import { safeUrl, type HttpHead } from './message.ts';

/** Clients of the field follow 5 to 20; registries need one or two. */
const REDIRECTS_MAX = 5;

const REDIRECTIONS: readonly number[] = [301, 302, 303, 307, 308];

/**
 * Of a redirection's body or an error's; its first part may say what is wrong. Read so far, its
 * connection can be used again.
 */
export const EXCERPT_BYTES_MAX = 16 * 1024;

/** Where a request is sent, and what it may carry. */
export interface Hop {
  readonly url: URL;
  /**
   * Every hop so far was the first server itself, by scheme, host and port: its credentials may go
   * along.
   */
  readonly isServer: boolean;
}

/** Whether the answer sends a reader elsewhere; of what is written, nothing is sent on. */
export function isRedirection(method: string, status: number): boolean {
  return (method === 'GET' || method === 'HEAD') && REDIRECTIONS.includes(status);
}

/**
 * Sends the request on for as long as answers lead elsewhere; gives the first that does not, and
 * the server that sent it. Throws RegistryError.
 */
export async function follow<A extends { readonly head: HttpHead }>(
  request: { readonly method: string; readonly url: URL },
  send: (hop: Hop, redirects: number) => Promise<A>,
  mayBePlain?: (url: URL) => boolean,
): Promise<Hop & { readonly answer: A }> {
  const { method, url: first } = request;
  let hop: Hop = { url: first, isServer: true };
  for (let redirects = 0; redirects <= REDIRECTS_MAX; redirects++) {
    const answer = await send(hop, redirects);
    if (!isRedirection(method, answer.head.status)) return { ...hop, answer };
    const url = readLocation(answer.head, hop.url, mayBePlain);
    hop = { url, isServer: hop.isServer && url.origin === first.origin };
  }
  const what = `${method} ${safeUrl(first)}: more than ${REDIRECTS_MAX} redirections`;
  throw protocolError('too-many-redirects', what);
}
