import { protocolError } from '../errors.ts';
import { safeUrl, type HttpHead } from './message.ts';

/**
 * Where the Location header of an answer leads: perhaps to another host, never from HTTPS to plain
 * HTTP, since what comes from there is not always checked against a digest at once. Throws
 * RegistryError.
 */
export function readLocation(head: HttpHead, from: URL): URL {
  const { location } = head.headers;
  const to =
    location !== undefined && URL.canParse(location, from.href)
      ? new URL(location, from)
      : undefined;
  const isAllowed =
    to?.protocol === 'https:' || (to?.protocol === 'http:' && from.protocol === 'http:');
  if (to === undefined || !isAllowed || to.username !== '' || to.password !== '') {
    const where = to === undefined ? 'nowhere' : safeUrl(to);
    throw protocolError('bad-location', `${safeUrl(from)} leads to ${where}, which is refused`);
  }
  return to;
}
