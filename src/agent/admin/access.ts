import type { IncomingMessage } from 'node:http';
import { isLoopback, parseListenAddress } from '../../registry/hosts.ts';
import type { AdminToken } from './admin-token.ts';
import { RequestError } from './errors.ts';

/**
 * Who may ask what.
 *
 * - `probe`: the agent runs, or is ready. `metrics`: figures for Prometheus. `read`: facts, with names of images and peers. Whoever reaches
 *   the endpoint gets all three.
 * - `change`: connections from this host alone, and only when the request names this host, so that no web page can make it.
 */
export type Access = 'probe' | 'metrics' | 'read' | 'change';

/** The kinds of access in the order of docs/ADMIN.md. */
export const ACCESS_WORDS: Readonly<Record<Access, string>> = {
  probe: 'anyone who reaches the endpoint',
  metrics: 'anyone who reaches the endpoint',
  read: 'anyone who reaches the endpoint',
  change:
    'programs of this host, through 127.0.0.1, [::1] or localhost; where the table says so, also requests from elsewhere with ' +
    '`Authorization: Bearer` and the token of `admin.tokenFile`',
};

/** The one place that decides whether a request may do what its route does. Throws RequestError when it may not. */
export function requireAccess(
  request: Pick<IncomingMessage, 'headers' | 'socket'>,
  route: { readonly access: Access; readonly byToken?: true },
  token: Pick<AdminToken, 'accepts'> | undefined,
): void {
  if (route.access !== 'change') return;
  if (route.byToken === true && token?.accepts(request.headers.authorization) === true) return;
  requireThisHost(request);
}

function requireThisHost({ headers, socket }: Pick<IncomingMessage, 'headers' | 'socket'>): void {
  const peer = socket.remoteAddress ?? '';
  if (!isLoopback(peer)) {
    throw new RequestError(
      `${peer} may not change anything here: ask from the host itself, through 127.0.0.1`,
      { code: 'loopback-only' },
    );
  }
  const name = headers.host ?? '';
  const host = parseListenAddress(name)?.host ?? name;
  if (host !== 'localhost' && !isLoopback(host)) {
    throw new RequestError(
      `requests that change something must be made to 127.0.0.1, not to ${JSON.stringify(host)}`,
      { code: 'loopback-only' },
    );
  }
}
