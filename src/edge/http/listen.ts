import type { AddressInfo } from 'node:net';
import { CodedError, errorText } from '../../util/errors.ts';
import { httpAddress, type ListenAddress } from '../../registry/hosts.ts';

/** A server cannot listen on its address; `key` is the key of the configuration that chose it. */
export class ListenError extends CodedError<{ readonly code: 'listen'; readonly key: string }> {}

/**
 * The error of a server that could not listen; `key` is the key of the configuration that chose the
 * address.
 */
export function listenError(
  address: ListenAddress | string,
  key: string,
  cause: unknown,
): ListenError {
  const place = typeof address === 'string' ? address : httpAddress(address);
  const code = (cause as NodeJS.ErrnoException).code;
  const reason =
    code === 'EADDRINUSE'
      ? 'another process listens there; stop it, or choose another address'
      : code === 'EADDRNOTAVAIL'
        ? 'this host has no such address'
        : code === 'EACCES'
          ? 'this user may not use that port'
          : errorText(cause);
  return new ListenError(
    `cannot listen on ${place} (${key}): ${reason}`,
    { code: 'listen', key },
    { cause },
  );
}

/** Where a listening server is, with the port that the system chose. */
export function boundAddress(address: AddressInfo | string | null): ListenAddress {
  if (typeof address === 'object' && address !== null) {
    return { host: address.address, port: address.port };
  }
  throw new TypeError('the server does not listen on a port');
}

/** The body of every error answer of the agent's HTTP servers. */
export interface ErrorBody {
  readonly error: string;
  readonly code: string;
}

/** What a client may read of an error: the text of a CodedError, of others that there was one. */
export function errorBody(error: unknown): ErrorBody {
  if (error instanceof CodedError) return { error: error.message, code: String(error.code) };
  return { error: 'internal error; the log of the agent says more', code: 'internal' };
}
