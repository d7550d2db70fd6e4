import type { IncomingMessage } from 'node:http';
import { RequestError } from './errors.ts';

/** An image reference and a path fit many times over. */
const BODY_BYTES_MAX = 64 * 1024;

/**
 * JSON, or a format made of it: registries send their notifications as
 * `application/vnd.docker.distribution.events.v1+json`.
 */
const JSON_TYPE = /^application\/([\w.-]+\+)?json *(;|$)/i;

/**
 * The JSON of a request's body; an empty object when it has none. Only what says that it is JSON is
 * read: a web page may not send that to another server without asking it first. Rejects with
 * RequestError.
 */
export async function readBody(request: IncomingMessage): Promise<unknown> {
  const { 'content-length': length = '0', 'content-type': type = '' } = request.headers;
  if (length === '0' && request.headers['transfer-encoding'] === undefined) return {};
  if (!JSON_TYPE.test(type)) {
    throw new RequestError(
      'the body must be JSON, with content-type: application/json or application/...+json',
      {
        code: 'media-type',
      },
    );
  }
  if (Number(length) > BODY_BYTES_MAX) throw tooLarge();
  const pieces: Buffer[] = [];
  let sizeBytes = 0;
  // The connection stays for the answer, whatever is thrown.
  const body: AsyncIterable<Buffer> = request.iterator({ destroyOnReturn: false });
  for await (const piece of body) {
    sizeBytes += piece.length;
    if (sizeBytes > BODY_BYTES_MAX) throw tooLarge();
    pieces.push(piece);
  }
  try {
    return JSON.parse(Buffer.concat(pieces).toString('utf8'));
  } catch {
    throw new RequestError('the body is not JSON', { code: 'bad-request' });
  }
}

function tooLarge(): RequestError {
  const text = `the body is larger than ${BODY_BYTES_MAX} bytes`;
  return new RequestError(text, { code: 'too-large' });
}
