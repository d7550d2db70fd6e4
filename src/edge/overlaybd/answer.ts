import type { IncomingMessage, OutgoingHttpHeaders } from 'node:http';
import type { BlobRef } from '../../image/block.ts';
import { CodedError } from '../../util/errors.ts';
import type { Digest } from '../../image/digest.ts';
import { AccessError } from '../access/access-error.ts';
import type { BlobTarget } from './target.ts';
import type { ByteRange } from '../http/byte-range.ts';
import { errorBody, type ErrorBody } from '../http/listen.ts';

/** An answer that is an error, with its body. */
export interface Refusal {
  readonly status: number;
  readonly body: ErrorBody;
  readonly headers?: OutgoingHttpHeaders;
}

/** Why a request is refused before any work, or undefined when there is something to answer it with. */
export function refusalOfRequest(
  request: IncomingMessage,
  target: BlobTarget,
): Refusal | undefined {
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    const error = `${request.method ?? ''} is not supported here: only GET and HEAD are`;
    return { status: 405, body: { error, code: 'method' }, headers: { allow: 'GET, HEAD' } };
  }
  if (target.kind === 'no-url') {
    const error =
      'no origin URL follows the prefix: ask for /<prefix>/https://HOST/v2/NAME/blobs/sha256:HEX';
    return { status: 404, body: { error, code: 'no-url' } };
  }
  if (target.kind === 'ambiguous') {
    const error = `the origin URL is refused: ${target.reason}`;
    return { status: 400, body: { error, code: 'ambiguous-url' } };
  }
  return undefined;
}

export function unsatisfiable(request: IncomingMessage, blob: BlobRef): Refusal {
  const shown = JSON.stringify(request.headers.range ?? '').slice(0, 100);
  const error = `Range ${shown} is not one range within the ${blob.sizeBytes} bytes of the blob`;
  return {
    status: 416,
    body: { error, code: 'range' },
    headers: { 'content-range': `bytes */${blob.sizeBytes}` },
  };
}

/** For an If-Match that names something else. */
export const PRECONDITION_FAILED: Refusal = {
  status: 412,
  body: { error: 'If-Match does not name this blob', code: 'precondition' },
};

/** The strong validator of a blob: its digest. */
export function etagOf(digest: Digest): string {
  return `"${digest}"`;
}

export function headersOf(
  digest: Digest,
  blob: BlobRef,
  range: ByteRange | 'whole',
): OutgoingHttpHeaders {
  const partial = range !== 'whole';
  return {
    'content-type': 'application/octet-stream',
    'accept-ranges': 'bytes',
    etag: etagOf(digest),
    'content-length': partial ? range.length : blob.sizeBytes,
    ...(partial && { 'content-range': contentRangeOf(range, blob) }),
  };
}

export function contentRangeOf(range: ByteRange, blob: BlobRef): string {
  return `bytes ${range.offset}-${range.offset + range.length - 1}/${blob.sizeBytes}`;
}

/** The answer to a request that failed. overlaybd refreshes its token or signed URL at 401 and 403; it takes other errors as they are. */
export function refusalOfError(error: unknown): Refusal {
  const refusal = { status: statusOf(error), body: errorBody(error) };
  const detail = error instanceof AccessError ? error.detail : undefined;
  if (detail === undefined || !('challenges' in detail)) return refusal;
  return { ...refusal, headers: { 'www-authenticate': [...detail.challenges] } };
}

function statusOf(error: unknown): number {
  if (!(error instanceof CodedError)) return 500;
  switch (error.code) {
    case 'unauthorized':
      return 401;
    case 'denied':
      return 403;
    case 'not-found':
      return 404;
    case 'rate-limited':
      return 429;
    case 'timeout':
    case 'deadline':
      return 504;
    case 'overloaded':
    case 'unchecked':
      return 503;
    default:
      return 502;
  }
}
