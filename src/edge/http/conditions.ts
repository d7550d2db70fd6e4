import type { IncomingHttpHeaders } from 'node:http';

/**
 * What the conditions of a request (RFC 9110, section 13) come to: `whole`: the Range is to be
 * ignored.
 */
type Condition = 'as-asked' | 'whole' | 'not-modified' | 'failed';

const ENTITY_TAG = /(?:W\/)?"[^"]*"/g;

/**
 * Evaluates the conditions for something that has this strong validator and no date. Conditions on
 * dates are to be ignored then (sections 13.1.3 and 13.1.4); an If-Range with a date matches
 * nothing, and asks for the whole.
 */
export function evaluateConditions(headers: IncomingHttpHeaders, etag: string): Condition {
  const ifMatch = headers['if-match'];
  if (ifMatch !== undefined && !lists(ifMatch, [etag])) return 'failed';
  const ifNoneMatch = headers['if-none-match'];
  // Weak comparison (8.8.3.2): a weak validator of the same value counts too.
  if (ifNoneMatch !== undefined && lists(ifNoneMatch, [etag, `W/${etag}`])) return 'not-modified';
  const ifRange = headers['if-range'];
  return ifRange === undefined || String(ifRange).trim() === etag ? 'as-asked' : 'whole';
}

function lists(header: string, wanted: readonly string[]): boolean {
  if (header.trim() === '*') return true;
  return header.match(ENTITY_TAG)?.some((tag) => wanted.includes(tag)) === true;
}
