import type { IncomingHttpHeaders, OutgoingHttpHeaders } from 'node:http';
import type { BlobRef } from '../../image/block.ts';
import { parseByteRange, type ByteRange } from './byte-range.ts';
import { evaluateConditions } from './conditions.ts';

/** What counts of a request for a blob. */
export interface BlobRequest {
  readonly method?: string | undefined;
  readonly headers: IncomingHttpHeaders;
}

/** The answer to a request for a blob, as it is decided before anything is read. */
export type BlobResponse =
  /** The bytes follow: all of them (200), or a part (206). */
  | {
      readonly kind: 'body';
      readonly status: 200 | 206;
      readonly headers: FlatHeaders;
      readonly range: ByteRange;
    }
  /** The head is all of it: the answer to HEAD, and 304. */
  | { readonly kind: 'head'; readonly status: 200 | 304; readonly headers: FlatHeaders }
  | BlobRefusal;

/** Names and values in turn: the form that costs `writeHead()` least. */
type FlatHeaders = string[];

/** An answer that is an error; each endpoint has a body of its own for it. */
export interface BlobRefusal {
  readonly kind: 'refusal';
  readonly status: 405 | 412 | 416;
  readonly code: 'method' | 'precondition' | 'range';
  readonly message: string;
  readonly headers: OutgoingHttpHeaders;
}

/** The codes of refusals in the bodies of registries (distribution spec, "Error Codes"). */
export const REGISTRY_CODES: Readonly<Record<BlobRefusal['code'], string>> = {
  method: 'UNSUPPORTED',
  precondition: 'PRECONDITION_FAILED',
  range: 'RANGE_INVALID',
};

/**
 * The answer to a request for a blob by RFC 9110: method (15.5.6), conditions (13.2.2), Range
 * (14.2). The strong validator is the digest, or what the storage gave of a blob without one.
 * Everything that serves blobs over HTTP here answers by it.
 */
export function blobResponse(
  request: BlobRequest,
  blob: BlobRef,
  etag = `"${blob.digest}"`,
): BlobResponse {
  const { method, headers } = request;
  const refusal = refusalOfMethod(method);
  if (refusal !== undefined) return refusal;
  const condition = evaluateConditions(headers, etag);
  if (condition === 'failed') return PRECONDITION_FAILED;
  if (condition === 'not-modified') return { kind: 'head', status: 304, headers: ['etag', etag] };
  if (method === 'HEAD') return { kind: 'head', status: 200, headers: wholeHeaders(blob, etag) };
  const range = condition === 'whole' ? 'whole' : parseByteRange(headers.range, blob.sizeBytes);
  if (range === 'unsatisfiable') return unsatisfiable(headers.range, blob);
  if (range === 'whole') {
    const all = { offset: 0, length: blob.sizeBytes };
    return { kind: 'body', status: 200, headers: wholeHeaders(blob, etag), range: all };
  }
  return { kind: 'body', status: 206, headers: partHeaders(blob, etag, range), range };
}

/** Why a request with this method is refused, whatever it names; undefined when it is not. */
export function refusalOfMethod(method: string | undefined): BlobRefusal | undefined {
  if (method === 'GET' || method === 'HEAD') return undefined;
  const message = `${method ?? ''} is not supported here: only GET and HEAD are`;
  const headers = { allow: 'GET, HEAD' };
  return { kind: 'refusal', status: 405, code: 'method', message, headers };
}

const PRECONDITION_FAILED: BlobRefusal = {
  kind: 'refusal',
  status: 412,
  code: 'precondition',
  message: 'If-Match does not name this blob',
  headers: {},
};

function unsatisfiable(range: string | undefined, blob: BlobRef): BlobRefusal {
  const shown = JSON.stringify(range ?? '').slice(0, 100);
  return {
    kind: 'refusal',
    status: 416,
    code: 'range',
    message: `Range ${shown} is no range within the ${blob.sizeBytes} bytes of the blob`,
    headers: { 'content-range': `bytes */${blob.sizeBytes}` },
  };
}

function wholeHeaders(blob: BlobRef, etag: string): FlatHeaders {
  return [
    'content-type',
    'application/octet-stream',
    'accept-ranges',
    'bytes',
    'etag',
    etag,
    'content-length',
    String(blob.sizeBytes),
  ];
}

/** Made anew for each answer: kept parts of it were measured to cost as much as they save. */
function partHeaders(blob: BlobRef, etag: string, { offset, length }: ByteRange): FlatHeaders {
  return [
    'content-type',
    'application/octet-stream',
    'accept-ranges',
    'bytes',
    'etag',
    etag,
    'content-length',
    String(length),
    'content-range',
    `bytes ${offset}-${offset + length - 1}/${blob.sizeBytes}`,
  ];
}
