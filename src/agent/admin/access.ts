import type { IncomingMessage } from 'node:http';
import type { AdminToken } from './admin-token.ts';
import { RequestError } from './errors.ts';

/**
 * What a request may ask for.
 *
 * - `probe`: the agent runs, or is ready. `metrics`: figures for Prometheus. Any client that
 *   reaches the endpoint gets both.
 * - `read`: facts, with names of images and peers. `change`: what changes something, on this host
 *   or on others.
 */
export type Access = 'probe' | 'metrics' | 'read' | 'change';

/**
 * How a request came: over the Unix socket, which the file system opens to those who may do
 * everything, or over TCP, where every program of every host is alike. Loopback is no privilege:
 * pods on the host's network have it too.
 */
export type Door = 'socket' | 'tcp';

/** The kinds of access in the order of docs/ADMIN.md. */
export const ACCESS_WORDS: Readonly<Record<Access, string>> = {
  probe: 'anyone who reaches the endpoint',
  metrics: 'anyone who reaches the endpoint',
  read: 'the socket; over TCP the token of `admin.readTokenFile` or of `admin.tokenFile`',
  change: 'the socket; over TCP the token of `admin.tokenFile`',
};

/** The tokens that open routes over TCP. One that is absent opens nothing. */
export interface Tokens {
  readonly change?: Pick<AdminToken, 'accepts'>;
  readonly read?: Pick<AdminToken, 'accepts'>;
}

/** Whether a route is open to anyone, who may then come in any number. */
export function isOpen(access: Access): boolean {
  return access === 'probe' || access === 'metrics';
}

/**
 * The one place that decides whether a request may do what its route does. Throws RequestError when
 * it may not. Web pages have neither the socket nor a token, so it does not matter under which name
 * the agent was asked.
 */
export function requireAccess(
  headers: Pick<IncomingMessage['headers'], 'authorization'>,
  access: Access,
  { door, tokens }: { readonly door: Door; readonly tokens: Tokens },
): void {
  if (door === 'socket' || isOpen(access)) return;
  const { authorization } = headers;
  // Both are looked at, whatever the first says, so that the time tells nothing.
  const mayChange = tokens.change?.accepts(authorization) === true;
  const mayRead = tokens.read?.accepts(authorization) === true;
  if (mayChange || (mayRead && access === 'read')) return;
  if (mayRead) {
    throw new RequestError(
      'this token shows and changes nothing: ask with that of admin.tokenFile, or over the ' +
        'socket (admin.socket)',
      { code: 'forbidden' },
    );
  }
  const file = access === 'read' ? 'admin.readTokenFile or admin.tokenFile' : 'admin.tokenFile';
  throw new RequestError(
    `over TCP this needs the token of ${file}: \`xylem ... --token-file FILE\`; ` +
      'on the host of the agent ask over its socket (admin.socket)',
    { code: 'unauthorized' },
  );
}
