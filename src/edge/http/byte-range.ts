/** Bytes [offset, offset + length) of a body. */
export interface ByteRange {
  readonly offset: number;
  readonly length: number;
}

/** One range of a set: FIRST-, FIRST-LAST or -SUFFIX. */
const RANGE_SPEC = /^([0-9]+)-([0-9]*)$|^-([0-9]+)$/;

/**
 * What a Range header asks of a body of `sizeBytes` (RFC 9110, section 14). Follows Go's server,
 * which the reference registry uses, where the RFC leaves a choice.
 *
 * - `whole`: there is no range of bytes, or there are several, which is to be ignored (14.2); or
 *   the body is empty and has no parts.
 * - `unsatisfiable`: no range lies within the body, or the header breaks the grammar (15.5.17).
 *
 * A set of which exactly one range lies within the body is that range.
 */
export function parseByteRange(
  header: string | undefined,
  sizeBytes: number,
): ByteRange | 'whole' | 'unsatisfiable' {
  if (header === undefined || !/^bytes=/i.test(header)) return 'whole';
  const within: ByteRange[] = [];
  let count = 0;
  for (const spec of header.slice('bytes='.length).split(',')) {
    const text = spec.trim();
    // A list may have empty elements (5.6.1).
    if (text === '') continue;
    const range = parseSpec(text, sizeBytes);
    if (range === 'malformed') return 'unsatisfiable';
    if (range !== 'outside') within.push(range);
    count++;
  }
  if (count === 0) return 'unsatisfiable';
  if (sizeBytes === 0 || within.length > 1) return 'whole';
  return within[0] ?? 'unsatisfiable';
}

/** Numbers beyond 2^53 lose digits, and are beyond every body all the same. */
function parseSpec(text: string, sizeBytes: number): ByteRange | 'outside' | 'malformed' {
  const match = RANGE_SPEC.exec(text);
  if (match === null) return 'malformed';
  const [, first, last = '', suffix] = match;
  if (first === undefined) {
    const length = Math.min(Number(suffix), sizeBytes);
    return length === 0 ? 'outside' : { offset: sizeBytes - length, length };
  }
  const offset = Number(first);
  if (last !== '' && Number(last) < offset) return 'malformed';
  if (offset >= sizeBytes) return 'outside';
  const end = last === '' ? sizeBytes : Math.min(Number(last) + 1, sizeBytes);
  return { offset, length: end - offset };
}
