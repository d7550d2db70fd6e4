import { BLOB_SIZE_BYTES_MAX } from '../../image/block.ts';
import { parseContentRange } from './content-range.ts';
import { protocolError, RegistryError } from '../errors.ts';
import type { HttpHead } from './http.ts';
import { TargetSink } from './sinks.ts';

/** A server that ignores a range sends the blob from its start; a range must end within this, that so much and no more is thrown away. */
const IGNORED_RANGE_BYTES_MAX = 8 * 1024 * 1024;

interface WantedRange {
  readonly offset: number;
  readonly target: Uint8Array;
  /** Of the whole blob. */
  readonly sizeBytes: number;
}

/** Where the body of the answer to a range request goes. Throws RegistryError when it is not exactly that range. */
export function openRange(head: HttpHead, range: WantedRange, what: string): TargetSink {
  const { offset, target } = range;
  const coding = head.headers['content-encoding'];
  if (coding !== undefined && coding !== 'identity') {
    // Its bytes are others than those asked for.
    throw protocolError('bad-coding', `${what}: sent with Content-Encoding ${coding}`);
  }
  if (head.status === 206) {
    checkContentRange(head, range, what);
    return new TargetSink({ what, target, skipBytes: 0, restIsRefused: true });
  }
  if (offset + target.length > IGNORED_RANGE_BYTES_MAX) {
    const rule = `only ranges that end within ${IGNORED_RANGE_BYTES_MAX} bytes can be had that way`;
    throw protocolError('range-ignored', `${what}: the server ignores ranges, and ${rule}`);
  }
  return new TargetSink({ what, target, skipBytes: offset, restIsRefused: false });
}

function checkContentRange(head: HttpHead, wanted: WantedRange, what: string): void {
  const header = head.headers['content-range'];
  const contentLength = head.headers['content-length'];
  const range = parseContentRange(header);
  const { offset, sizeBytes } = wanted;
  const { length } = wanted.target;
  if (
    range?.first !== offset ||
    range.last !== offset + length - 1 ||
    (range.total !== undefined && range.total !== sizeBytes) ||
    (contentLength !== undefined && contentLength !== String(length))
  ) {
    const found = `Content-Range ${JSON.stringify(header)} and Content-Length ${contentLength}`;
    const why = `${what}, a blob of ${sizeBytes} bytes: answered with ${found}`;
    throw protocolError('bad-content-range', why);
  }
}

/** The size that the answer to a HEAD names, or undefined. Throws RegistryError when it is too large. */
export function sizeOfHead(head: HttpHead, what: string): number | undefined {
  const header = head.headers['content-length'];
  if (header === undefined || !/^[0-9]{1,15}$/.test(header)) return undefined;
  const size = Number(header);
  if (size <= BLOB_SIZE_BYTES_MAX) return size;
  const why = `${what} has ${size} bytes, more than ${BLOB_SIZE_BYTES_MAX}`;
  throw new RegistryError(why, { code: 'too-large', sizeBytesMax: BLOB_SIZE_BYTES_MAX });
}

/** The size of the blob that the answer to a range request names: a part (206) names the whole. Throws RegistryError. */
export function sizeOfRange(head: HttpHead, what: string): number {
  const total =
    head.status === 206
      ? parseContentRange(head.headers['content-range'])?.total
      : sizeOfHead(head, what);
  if (total !== undefined && total <= BLOB_SIZE_BYTES_MAX) return total;
  throw protocolError('no-size', `${what}: the registry does not tell its size`);
}
