import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { parseContentRange } from '../../registry/http/content-range.ts';
import { protocolError } from '../../registry/errors.ts';
import type { UrlAnswer, UrlClient } from '../../registry/url-client.ts';
import type { Clock, Timer } from '../../runtime/clock.ts';
import type { Counter, Metrics } from '../../runtime/metrics.ts';
import { Limiter } from '../../util/limiter.ts';
import { BlobError, overloadedError } from '../http/blob-error.ts';
import type { Exchange } from '../http/exchange.ts';
import { overlaybdMetrics } from './metrics.ts';

/** Answers in flight from one server, and in line: no server is so slow that others wait for it. */
const SERVER_LIMITS = { runningMax: 32, waitingMax: 128 };

/** The same of all servers. They take no place of reads of blobs. */
const ALL_LIMITS = { runningMax: 256, waitingMax: 1024 };

/** An answer that passes less than 16 KiB/s over this time is cut off. (tunable) */
const WINDOW_MS = 30_000;
const WINDOW_BYTES_MIN = (16 * 1024 * WINDOW_MS) / 1000;

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
 * Answers a request from the server that its URL names, piece by piece as it comes: for what is not
 * named by a digest, and so cannot be verified, shared or kept. The client's credentials go to that
 * server alone.
 */
export class PassThrough {
  readonly #urls: Pick<UrlClient, 'open'>;
  readonly #clock: Clock;
  readonly #bytes: Counter;
  readonly #all = new Limiter(ALL_LIMITS);
  /** Of servers with answers in flight. */
  readonly #servers = new Map<string, Limiter>();

  constructor(components: {
    readonly urls: Pick<UrlClient, 'open'>;
    readonly clock: Clock;
    readonly metrics: Metrics;
  }) {
    this.#urls = components.urls;
    this.#clock = components.clock;
    this.#bytes = overlaybdMetrics(components.metrics).passedThroughBytes;
  }

  /**
   * Gives the status once the answer is sent. Rejects with RegistryError, or BlobError when too
   * many wait, before anything is sent; once it has begun, the connection to the client is cut when
   * the server's breaks or is too slow.
   */
  async answer(
    request: IncomingMessage,
    exchange: Pick<Exchange, 'response' | 'signal'>,
    init: { readonly url: string; readonly onStart: (status: number) => void },
  ): Promise<void> {
    const { signal } = exchange;
    const server = /^https?:\/\/([^/?#]*)/.exec(init.url)?.[1]?.toLowerCase() ?? '';
    const line = this.#servers.get(server) ?? new Limiter(SERVER_LIMITS);
    this.#servers.set(server, line);
    const turn = line.run(() => {
      const own = this.#all.run(() => this.#pass(request, exchange, init), signal);
      return own ?? Promise.reject(tooMany(ALL_LIMITS, 'servers'));
    }, signal);
    if (turn === undefined) throw tooMany(SERVER_LIMITS, server);
    try {
      await turn;
    } finally {
      if (line.idle) this.#servers.delete(server);
    }
  }

  async #pass(
    request: IncomingMessage,
    { response, signal }: Pick<Exchange, 'response' | 'signal'>,
    { url, onStart }: { readonly url: string; readonly onStart: (status: number) => void },
  ): Promise<void> {
    const method = request.method === 'HEAD' ? 'HEAD' : 'GET';
    const headers = chosen(request.headers, REQUEST_HEADERS) as Record<string, string>;
    const answer = await this.#urls.open({ method, url, headers }, signal);
    const watched = this.#watch(answer.body);
    try {
      checkPart(answer);
      response.writeHead(answer.status, chosen(answer.headers, ANSWER_HEADERS));
      onStart(answer.status);
      await pipeline(answer.body, response, { signal });
    } finally {
      watched.cancel();
      answer.body.destroy();
    }
  }

  /** Ends a body that passes too slowly, whichever side is slow. */
  #watch(body: Readable): Timer {
    let windowBytes = 0;
    body.on('data', (piece: Uint8Array) => {
      windowBytes += piece.length;
      this.#bytes.inc({}, piece.length);
    });
    const look = (): void => {
      if (windowBytes < WINDOW_BYTES_MIN) return void body.destroy(tooSlow(windowBytes));
      windowBytes = 0;
      timer = this.#clock.setTimer(WINDOW_MS, look);
    };
    let timer = this.#clock.setTimer(WINDOW_MS, look);
    return { cancel: () => timer.cancel() };
  }
}

function tooMany(limits: typeof ALL_LIMITS, server: string): BlobError {
  const { runningMax, waitingMax } = limits;
  return overloadedError(`${runningMax} answers of ${server} pass and ${waitingMax} wait already`);
}

function tooSlow(bytes: number): BlobError {
  const text = `${bytes} bytes passed in ${WINDOW_MS} ms: at least ${WINDOW_BYTES_MIN} have to`;
  return new BlobError(text, { code: 'timeout' });
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

/**
 * A part without its place, or of unknown total, breaks clients that believe the status: better no
 * answer.
 */
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
  const found =
    `Content-Range ${JSON.stringify(headers['content-range'])}, ` + `Content-Length ${length}`;
  throw protocolError('bad-content-range', `the server sent a part with ${found}`);
}
