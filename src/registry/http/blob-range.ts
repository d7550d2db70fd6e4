import { BLOB_SIZE_BYTES_MAX } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { Scatter } from '../../util/scatter.ts';
import { parseContentRange } from './content-range.ts';
import { protocolError, RegistryError } from '../errors.ts';
import type { BodySink, HttpHead } from './message.ts';
import { beginsPage, isHtml } from './page.ts';
import { FirstByteSink, HeadSink, TargetSink } from './sinks.ts';

/**
 * A server that ignores a range sends the blob from its start; where a range ends within this, the
 * bytes before it may be thrown away.
 */
const IGNORED_RANGE_BYTES_MAX = 8 * 1024 * 1024;

/** Of a blob without a byte, the only one whose size may be 0. */
const EMPTY_DIGEST = 'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855';

/** What storage calls its content, when it is not what a web server shows people. */
const CONTENT = /^\s*(application|binary)\/(?!json|xhtml)/i;

/** A run of bytes of a blob, and where they go. */
export interface BlobRun {
  /** Of the first byte of the target in the blob. */
  readonly offset: number;
  readonly target: Scatter;
  /** Of the whole blob. */
  readonly sizeBytes: number;
}

/** Of a run, what one request asks for: everything from `first` on. */
export interface WantedRange extends BlobRun {
  readonly first: number;
}

/** What is missing of a run. */
export function missingOf(run: BlobRun): WantedRange {
  return { ...run, first: run.offset + run.target.filled };
}

/** The answer to a range beyond the content, and of some servers to any range. */
export const RANGE_NOT_SATISFIABLE = 416;

/** The header that asks for it. */
export function rangeHeader({ first, offset, target }: WantedRange): string {
  return `bytes=${first}-${offset + target.length - 1}`;
}

/**
 * Where the body of the answer to a range request goes: to the target, or to the first part of what
 * it misses when the server sends fewer bytes than asked (RFC 9110, section 15.3.7). Throws
 * RegistryError when the answer is not of that range; `range-ignored` when the server refuses it,
 * or when it is all of the blob and the range ends beyond `skippedBytesMax`.
 */
export function openRange(
  head: HttpHead,
  range: WantedRange,
  what: string,
  skippedBytesMax = IGNORED_RANGE_BYTES_MAX,
): TargetSink {
  const { offset, first, target, sizeBytes } = range;
  if (head.status === RANGE_NOT_SATISFIABLE) {
    throw protocolError('range-ignored', `${what}: the server has no ranges of it`);
  }
  if (head.status === 206) {
    const bodyBytes = checkContentRange(head, range, what);
    return new TargetSink({
      ...{ what, target, startAt: first - offset, bodyBytes, restIsRefused: true },
    });
  }
  if (head.headers['content-range'] !== undefined && lengthOf(head) !== sizeBytes) {
    throw protocolError('range-broken', `${what}: a part came as if it were all of the blob`);
  }
  checkWhole(head, sizeBytes, what);
  if (offset + target.length > skippedBytesMax && target.length !== sizeBytes) {
    throw protocolError('range-ignored', `${what}: the server ignores ranges`);
  }
  const bodyBytes = offset + target.length;
  return new TargetSink({ what, target, startAt: -offset, bodyBytes, restIsRefused: false });
}

/** Throws RegistryError when the answer cannot be the whole blob. */
export function checkWhole(head: HttpHead, sizeBytes: number, what: string): void {
  const lengthBytes = lengthOf(head);
  if (lengthBytes !== sizeBytes) checkPage(head, what);
  checkCoding(head, lengthBytes === sizeBytes, what);
  if (head.status === 200 && (lengthBytes ?? sizeBytes) === sizeBytes) return;
  const found = `${lengthBytes ?? 'no'} bytes, status ${head.status}`;
  throw protocolError(
    'bad-content-range',
    `${what}, of ${sizeBytes} bytes: answered with ${found}`,
  );
}

/** How many of the wanted bytes the part has. */
function checkContentRange(head: HttpHead, wanted: WantedRange, what: string): number {
  const header = head.headers['content-range'];
  const contentLength = head.headers['content-length'];
  const range = parseContentRange(header);
  const { first, offset, sizeBytes, target } = wanted;
  const lengthBytes = range === undefined ? 0 : range.last - range.first + 1;
  const isOtherBlob = range?.total !== undefined && range.total !== sizeBytes;
  if (
    isOtherBlob ||
    range?.first !== first ||
    lengthBytes <= 0 ||
    lengthBytes > offset + target.length - first ||
    (contentLength !== undefined && contentLength !== String(lengthBytes))
  ) {
    const found = `Content-Range ${JSON.stringify(header)} and Content-Length ${contentLength}`;
    const why = `${what}, a blob of ${sizeBytes} bytes: answered with ${found}`;
    throw protocolError(isOtherBlob ? 'bad-content-range' : 'range-broken', why);
  }
  checkCoding(head, range.total === sizeBytes, what);
  return lengthBytes;
}

/**
 * Stored content that carries the name of its own compression is right when its size is; otherwise
 * its bytes are not those asked for.
 */
function checkCoding({ headers }: HttpHead, hasRightSize: boolean, what: string): void {
  const coding = headers['content-encoding'];
  if (coding === undefined || coding === 'identity' || hasRightSize) return;
  throw protocolError('bad-coding', `${what}: sent with Content-Encoding ${coding}`);
}

function checkPage({ headers }: HttpHead, what: string): void {
  if (isHtml(headers['content-type'])) throw pageError(what);
}

function pageError(what: string): RegistryError {
  return protocolError('page', `${what}: a page came instead of it`);
}

/** The size that a Content-Length names, or undefined. */
export function lengthOf({ headers }: HttpHead): number | undefined {
  const header = headers['content-length'];
  return header !== undefined && /^[0-9]{1,15}$/.test(header) ? Number(header) : undefined;
}

interface FirstByte {
  readonly digest: Digest;
  /** The registry itself answered, not something that it led to. */
  readonly isServer: boolean;
  readonly what: string;
}

/**
 * The size of a blob, as the answer to a GET of its first byte tells it: a part (206) or a refusal
 * (416) names the whole, an answer of a server that ignores ranges (200) has its length. Undefined
 * when the answer leaves it out. Throws RegistryError when it is no answer about that blob: servers
 * lead strangers to all kinds of pages. `pageSink()` looks at the body.
 */
export function sizeOfFirstByte(
  head: HttpHead,
  { digest, isServer, what }: FirstByte,
): number | undefined {
  const { status, headers } = head;
  const announced = headers['docker-content-digest'];
  const isStorage = isServer || status !== 200 || CONTENT.test(headers['content-type'] ?? '');
  if (announced !== digest && !isStorage) {
    throw protocolError('page', `${what}: the registry leads to something else`);
  }
  if (announced !== undefined && announced !== digest) {
    const actual = String(announced).slice(0, 100);
    const why = `${what}: the registry says that it is ${JSON.stringify(actual)}`;
    throw new RegistryError(why, { code: 'digest-mismatch', expected: digest, actual });
  }
  const range = headers['content-range'];
  const total =
    status === 206 || (status === 200 && range !== undefined)
      ? parseContentRange(range)?.total
      : status === RANGE_NOT_SATISFIABLE
        ? range?.trim() === 'bytes */0'
          ? 0
          : undefined
        : lengthOf(head);
  if (total === undefined || (total === 0) !== (digest === EMPTY_DIGEST)) return undefined;
  if (total <= BLOB_SIZE_BYTES_MAX) return total;
  const why = `${what} has ${total} bytes, more than ${BLOB_SIZE_BYTES_MAX}`;
  throw new RegistryError(why, { code: 'too-large', sizeBytesMax: BLOB_SIZE_BYTES_MAX });
}

/**
 * Where the body of the answer to a GET of the first byte goes. What is labelled as a page is
 * refused, unless it is a part (206) that does not begin like one.
 */
export function pageSink(head: HttpHead, { digest, what }: FirstByte): BodySink {
  const isNamed = head.headers['docker-content-digest'] === digest;
  if (isNamed || !isHtml(head.headers['content-type'])) return new HeadSink();
  if (head.status !== 206) throw pageError(what);
  return new FirstByteSink((byte) => {
    if (beginsPage(byte)) throw pageError(what);
  });
}
