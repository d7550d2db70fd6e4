/** Bytes [offset, offset + length) of a body. */
export interface ByteRange {
  readonly offset: number;
  readonly length: number;
}

/** 16 digits and more cannot be told apart by a number. */
const BYTES_RANGE = /^bytes=([0-9]{0,15})-([0-9]{0,15})$/i;

/**
 * What a Range header asks of a body of `sizeBytes` (RFC 9110, section 14).
 *
 * - `whole`: no range, or one in another unit than bytes, which is to be ignored.
 * - `unsatisfiable`: it lies outside of the body, breaks the grammar, or lists several ranges, which no client of ours does.
 */
export function parseByteRange(
  header: string | undefined,
  sizeBytes: number,
): ByteRange | 'whole' | 'unsatisfiable' {
  if (header === undefined || !/^bytes=/i.test(header)) return 'whole';
  const match = BYTES_RANGE.exec(header.trim());
  if (match === null) return 'unsatisfiable';
  const [, first = '', last = ''] = match;
  if (first === '') {
    const length = Math.min(Number(last), sizeBytes);
    return last === '' || length === 0 ? 'unsatisfiable' : { offset: sizeBytes - length, length };
  }
  const offset = Number(first);
  const end = last === '' ? sizeBytes - 1 : Math.min(Number(last), sizeBytes - 1);
  if (offset > end || (last !== '' && Number(last) < offset)) return 'unsatisfiable';
  return { offset, length: end - offset + 1 };
}
