import { protocolError } from './errors.ts';
import type { HttpHead } from './http.ts';

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

/** Refuses an answer that is not exactly the range of the blob that was asked for. Throws RegistryError. */
export function checkContentRange(
  head: HttpHead,
  wanted: { readonly offset: number; readonly length: number; readonly sizeBytes: number },
  what: string,
): void {
  const header = head.headers['content-range'];
  const range = parseContentRange(header);
  const { offset, length, sizeBytes } = wanted;
  const contentLength = head.headers['content-length'];
  if (
    range?.first !== offset ||
    range.last !== offset + length - 1 ||
    (range.total !== undefined && range.total !== sizeBytes) ||
    (contentLength !== undefined && contentLength !== String(length))
  ) {
    throw protocolError(
      'bad-content-range',
      `${what}, a blob of ${sizeBytes} bytes: answered with Content-Range ${JSON.stringify(header)} and Content-Length ${contentLength}`,
    );
  }
}
