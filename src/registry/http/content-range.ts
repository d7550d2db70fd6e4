/** Part of a body (RFC 9110, section 14.4). */
export interface ContentRange {
  readonly first: number;
  readonly last: number;
  /** Undefined when the server does not know it (`*`). */
  readonly total: number | undefined;
}

const CONTENT_RANGE = /^bytes +([0-9]{1,15})-([0-9]{1,15})\/([0-9]{1,15}|\*)$/i;

/** Reads `bytes FIRST-LAST/TOTAL`; undefined when the header is missing or says something else. */
export function parseContentRange(header: string | undefined): ContentRange | undefined {
  const match = CONTENT_RANGE.exec(header?.trim() ?? '');
  if (match === null) return undefined;
  const [, first, last, total] = match;
  return {
    first: Number(first),
    last: Number(last),
    total: total === '*' ? undefined : Number(total),
  };
}
