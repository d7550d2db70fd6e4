import type { IncomingHttpHeaders } from 'node:http';

/** What the conditions of a request (RFC 9110, section 13) come to: `whole`: the Range is to be ignored. */
export type Condition = 'as-asked' | 'whole' | 'not-modified' | 'failed';

/** Whether a request has conditions at all. */
export function hasConditions(headers: IncomingHttpHeaders): boolean {
  return (
    headers['if-none-match'] !== undefined ||
    headers['if-match'] !== undefined ||
    headers['if-range'] !== undefined
  );
}

/**
 * Evaluates them for something that has this strong validator and no date; conditions on dates are then to be ignored (sections 13.1.3
 * and 13.1.4), but for If-Range, where a date that cannot match asks for the whole.
 */
export function evaluateConditions(headers: IncomingHttpHeaders, etag: string): Condition {
  const ifMatch = headers['if-match'];
  if (ifMatch !== undefined && !lists(ifMatch, etag, false)) return 'failed';
  const ifNoneMatch = headers['if-none-match'];
  if (ifNoneMatch !== undefined && lists(ifNoneMatch, etag, true)) return 'not-modified';
  const ifRange = headers['if-range'];
  return ifRange === undefined || String(ifRange).trim() === etag ? 'as-asked' : 'whole';
}

/** `weakly`: a weak validator of the same value counts too. */
function lists(header: string, etag: string, weakly: boolean): boolean {
  return header
    .split(',')
    .map((item) => item.trim())
    .some((item) => item === '*' || item === etag || (weakly && item === `W/${etag}`));
}
