import { protocolError } from '../errors.ts';
import { safeUrl, type HttpHead } from './message.ts';

/** How an operator lets HTTPS lead to HTTP. */
export const PLAIN_RULE =
  'HTTPS leads to plain HTTP only at a host with an entry of its own in `registries` that has ' +
  '`insecure: true`';

/**
 * Where the Location header of an answer leads: perhaps to another host, from HTTPS to plain HTTP
 * only where `mayBePlain` says so, since what comes from there is not always checked against a
 * digest at once. Throws RegistryError.
 */
export function readLocation(
  head: HttpHead,
  from: URL,
  mayBePlain: (url: URL) => boolean = () => false,
): URL {
  const { location } = head.headers;
  const to =
    location !== undefined && URL.canParse(location, from.href)
      ? new URL(location, from)
      : undefined;
  const isAllowed =
    to?.protocol === 'https:' ||
    (to?.protocol === 'http:' && (from.protocol === 'http:' || mayBePlain(to)));
  if (to === undefined || !isAllowed || to.username !== '' || to.password !== '') {
    const where = to === undefined ? 'nowhere' : safeUrl(to);
    const rule = to?.protocol === 'http:' && from.protocol === 'https:' ? `: ${PLAIN_RULE}` : '';
    const what = `${safeUrl(from)} leads to ${where}, which is refused${rule}`;
    throw protocolError('bad-location', what);
  }
  return to;
}
