import type { OutgoingHttpHeaders } from 'node:http';
import { CodedError } from '../../util/errors.ts';
import { clientDetail, clientText } from '../client-errors.ts';
import { errorHeaders, type BlobErrorDetail } from '../http/blob-error.ts';
import { refusalOfMethod, type BlobRefusal } from '../http/blob-response.ts';
import type { ErrorBody } from '../http/listen.ts';
import type { BlobTarget } from './target.ts';

/** An answer that is an error, with its body. */
export interface Refusal {
  readonly status: number;
  readonly body: ErrorBody;
  readonly headers?: OutgoingHttpHeaders;
}

/**
 * Why a request is refused before any work, or undefined when there is something to answer it with.
 */
export function refusalOfRequest(
  method: string | undefined,
  target: BlobTarget,
): Refusal | undefined {
  const refused = refusalOfMethod(method);
  if (refused !== undefined) return refusalOfBlob(refused);
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

/** A refusal of a blob with the body that this endpoint has. */
export function refusalOfBlob({ status, code, message, headers }: BlobRefusal): Refusal {
  return { status, body: { error: message, code }, headers };
}

/**
 * overlaybd refreshes its token or signed URL at 401 and 403; it takes other errors as they are.
 */
const STATUS: Readonly<Record<BlobErrorDetail['code'], number>> = {
  unauthorized: 401,
  denied: 403,
  'not-found': 404,
  'rate-limited': 429,
  internal: 500,
  'bad-content': 502,
  unavailable: 502,
  overloaded: 503,
  unchecked: 503,
  timeout: 504,
};

/** The answer to a request that failed. */
export function refusalOfError(error: unknown): Refusal {
  const detail = clientDetail(error);
  const code = error instanceof CodedError ? String(error.code) : detail.code;
  return {
    status: STATUS[detail.code],
    body: { error: clientText(error), code },
    headers: errorHeaders(detail),
  };
}
