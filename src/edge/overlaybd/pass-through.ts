import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from 'node:http';
import { pipeline } from 'node:stream/promises';
import { parseContentRange } from '../../registry/http/content-range.ts';
import { protocolError } from '../../registry/errors.ts';
import type { UrlAnswer, UrlClient } from '../../registry/url-client.ts';
import type { Counter, Metrics } from '../../runtime/metrics.ts';
import { overlaybdMetrics } from './metrics.ts';

/** What a client may tell the server: what it wants, in which form, and by which right. */
const REQUEST_HEADERS = [
  'accept',
  'authorization',
  'if-match',
  'if-modified-since',
  'if-none-match',
  'if-range',
  'if-unmodified-since',
  'range',
] as const;

/** What the server may tell the client. Not its cookies, and nothing about its connection. */
const ANSWER_HEADERS = [
  'accept-ranges',
  'content-encoding',
  'content-length',
  'content-range',
  'content-type',
  'docker-content-digest',
  'etag',
  'last-modified',
  'link',
  'retry-after',
  'www-authenticate',
] as const;

/**
 * Answers a request from the server that its URL names, piece by piece as it comes: for what is not named by a digest, and so cannot be
 * verified, shared or kept. The client's credentials go to that server alone.
 */
export class PassThrough {
  readonly #urls: Pick<UrlClient, 'open'>;
  readonly #bytes: Counter;

  constructor(components: { readonly urls: Pick<UrlClient, 'open'>; readonly metrics: Metrics }) {
    this.#urls = components.urls;
    this.#bytes = overlaybdMetrics(components.metrics).passedThroughBytes;
  }

  /**
   * Gives the status once the answer is sent. Rejects with RegistryError before anything is sent when there is no sound answer; once it has begun,
   * the connection to the client is cut when the server's breaks.
   */
  async answer(
    request: IncomingMessage,
    response: ServerResponse,
    init: {
      readonly url: string;
      readonly signal: AbortSignal;
      readonly onStart: (status: number) => void;
    },
  ): Promise<void> {
    const { url, signal, onStart } = init;
    const method = request.method === 'HEAD' ? 'HEAD' : 'GET';
    const headers = chosen(request.headers, REQUEST_HEADERS) as Record<string, string>;
    const answer = await this.#urls.open({ method, url, headers }, signal);
    try {
      checkPart(answer);
      response.writeHead(answer.status, chosen(answer.headers, ANSWER_HEADERS));
      onStart(answer.status);
      answer.body.on('data', (piece: Uint8Array) => this.#bytes.inc({}, piece.length));
      await pipeline(answer.body, response);
    } finally {
      answer.body.destroy();
    }
  }
}

function chosen(
  headers: IncomingHttpHeaders,
  names: readonly string[],
): Record<string, string | string[]> {
  return Object.fromEntries(
    names.flatMap((name) => {
      const value = headers[name];
      return value === undefined ? [] : [[name, value]];
    }),
  );
}

/** A part without its place, or of unknown total, breaks clients that believe the status: better no answer. */
function checkPart({ status, headers }: UrlAnswer): void {
  if (status !== 206) return;
  const range = parseContentRange(headers['content-range']);
  const length = headers['content-length'];
  const isSound =
    range?.total !== undefined &&
    range.last >= range.first &&
    range.last < range.total &&
    (length === undefined || length === String(range.last - range.first + 1));
  if (isSound) return;
  const found = `Content-Range ${JSON.stringify(headers['content-range'])}, Content-Length ${length}`;
  throw protocolError('bad-content-range', `the server sent a part with ${found}`);
}
