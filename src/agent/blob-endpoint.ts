import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http';
import type { BlobRef } from '../image/block.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Logger } from '../runtime/logger.ts';
import type { Counter, Histogram, Metrics } from '../runtime/metrics.ts';
import type { BlobReader } from '../transfer/blob-reader.ts';
import { READ_AHEAD_BYTES, readAhead } from '../transfer/bulk-read.ts';
import { assert } from '../util/assert.ts';
import { CodedError } from '../util/errors.ts';
import { Limiter } from '../util/limiter.ts';
import { parseBlobTarget, type BlobTarget } from './blob-target.ts';
import { parseByteRange, type ByteRange } from './byte-range.ts';
import { errorBody, type ErrorBody } from './listen.ts';
import type { LocalRoute } from './local-server.ts';
import type { BlobDirectory } from './ports.ts';

/** overlaybd gives up after 30 s and takes any answer before that: a clean error has to leave earlier. */
const DEADLINE_MS = 25_000;

/** Answers up to this size are read at once; of larger ones at least so much is read ahead. */
const PIECE_BYTES_MAX = 1024 * 1024;

/** Read ahead for all large answers together: 16 of them at full pace; those that come later read ahead less. */
const BULK_BYTES_MAX = 16 * READ_AHEAD_BYTES;

/** Answers under way: with their pieces 256 MiB at most, beside what is read ahead. overlaybd opens few connections per device. */
const RUNNING_MAX = 256;

/** Answers in line behind them; beyond, 503. */
const WAITING_MAX = 1024;

/** Bucket bounds in seconds: memory answers in under 1 ms, a registry in 50 ms to seconds; the last is the deadline. */
const FIRST_BYTE_BUCKETS = [
  0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25,
];

interface BlobEndpointComponents {
  readonly directory: BlobDirectory;
  readonly reader: BlobReader;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

/** An answer that is an error, with its body. */
interface Refusal {
  readonly status: number;
  readonly body: ErrorBody;
  readonly headers?: OutgoingHttpHeaders;
}

/** What is needed to answer one request. */
interface Exchange {
  readonly response: ServerResponse;
  readonly signal: AbortSignal;
  readonly startedMs: number;
}

/**
 * Blobs for overlaybd: `GET /<prefix>/<origin URL>` with one Range, answered from wherever the blocks are.
 *
 * overlaybd turns a broken answer into an I/O error of the container. So the first bytes are read before the status is sent, and a failure
 * until then is a clean 4xx or 5xx; when a later piece fails the connection is cut, since a short body is the only other way to say so.
 */
export class BlobEndpoint implements LocalRoute {
  readonly #components: BlobEndpointComponents;
  readonly #prefix: string;
  readonly #deadlineMs: number;
  readonly #limiter = new Limiter({ runningMax: RUNNING_MAX, waitingMax: WAITING_MAX });
  readonly #requests: Counter;
  readonly #bytes: Counter;
  readonly #firstByte: Histogram;
  /** Windows of the large answers under way. */
  #bulkBytes = 0;

  constructor(
    components: BlobEndpointComponents,
    init: { readonly prefix: string; readonly deadlineMs?: number },
  ) {
    this.#components = components;
    this.#prefix = init.prefix;
    this.#deadlineMs = init.deadlineMs ?? DEADLINE_MS;
    this.#requests = components.metrics.counter({
      name: 'xylem_local_requests_total',
      help: 'Requests for blobs on the local endpoint, by HTTP status.',
      labelNames: ['status'],
    });
    this.#bytes = components.metrics.counter({
      name: 'xylem_local_response_bytes_total',
      help: 'Bytes of blobs handed to sockets of the local endpoint.',
    });
    this.#firstByte = components.metrics.histogram({
      name: 'xylem_local_first_byte_seconds',
      help: 'Time from a request for a blob to the start of its answer.',
      buckets: FIRST_BYTE_BUCKETS,
    });
  }

  handle(request: IncomingMessage, response: ServerResponse): boolean {
    const target = parseBlobTarget(request.url ?? '', this.#prefix);
    if (target.kind === 'elsewhere' || (target.kind === 'no-url' && this.#prefix === '')) {
      return false;
    }
    void this.#answer(request, response, target);
    return true;
  }

  async #answer(
    request: IncomingMessage,
    response: ServerResponse,
    target: BlobTarget,
  ): Promise<void> {
    const { clock, logger } = this.#components;
    const abort = new AbortController();
    const timer = clock.setTimer(this.#deadlineMs, () => {
      if (!response.headersSent) abort.abort(new DeadlineError(this.#deadlineMs));
    });
    response.on('close', () => abort.abort(new ClientGoneError()));
    const exchange = { response, signal: abort.signal, startedMs: clock.nowMs() };
    try {
      const refusal = refusalOf(request, target);
      if (refusal !== undefined) return this.#refuse(response, refusal);
      assert(target.kind === 'blob', 'everything but a blob is refused');
      const turn = this.#limiter.run(() => this.#serve(request, exchange, target));
      if (turn === undefined) return this.#refuse(response, OVERLOADED);
      await orAbort(turn, abort.signal);
    } catch (error) {
      if (error instanceof ClientGoneError) return;
      const where = target.kind === 'blob' ? { digest: target.digest } : {};
      logger.warn({ ...where, error }, 'could not answer a local read');
      if (response.headersSent) response.destroy();
      else this.#refuse(response, { status: statusOf(error), body: errorBody(error) });
    } finally {
      timer.cancel();
    }
  }

  async #serve(
    request: IncomingMessage,
    exchange: Exchange,
    target: BlobTarget & { kind: 'blob' },
  ): Promise<void> {
    const { response, signal } = exchange;
    signal.throwIfAborted();
    const { authorization } = request.headers;
    const blob = await orAbort(
      this.#components.directory.open(target.digest, target.address, {
        signal,
        ...(authorization === undefined ? {} : { authorization }),
      }),
      signal,
    );
    const head = request.method === 'HEAD';
    // A Range has a meaning for GET alone (RFC 9110, section 14.2).
    const range = head ? 'whole' : parseByteRange(request.headers.range, blob.sizeBytes);
    if (range === 'unsatisfiable') return this.#refuse(response, unsatisfiable(request, blob));
    const headers = headersOf(blob, range);
    if (head || blob.sizeBytes === 0) {
      this.#start(exchange, 200, headers);
      response.end();
      return;
    }
    const whole = { offset: 0, length: blob.sizeBytes };
    await this.#send(exchange, blob, { range: range === 'whole' ? whole : range, headers });
  }

  async #send(
    exchange: Exchange,
    blob: BlobRef,
    body: { readonly range: ByteRange; readonly headers: OutgoingHttpHeaders },
  ): Promise<void> {
    const { response, signal } = exchange;
    let leftBytes = body.range.length;
    for await (const piece of this.#pieces(blob, body.range, signal)) {
      if (!response.headersSent) {
        this.#start(exchange, 'content-range' in body.headers ? 206 : 200, body.headers);
      }
      leftBytes -= piece.length;
      this.#bytes.inc({}, piece.length);
      if (leftBytes === 0) response.end(piece);
      else if (!response.write(piece)) await drained(response, signal);
    }
  }

  /** The bytes of a range, in order: a large one is read ahead of the client, behind what others wait for. */
  async *#pieces(blob: BlobRef, range: ByteRange, signal: AbortSignal): AsyncGenerator<Uint8Array> {
    if (range.length <= PIECE_BYTES_MAX) {
      yield await this.#piece(blob, range, signal);
      return;
    }
    const freeBytes = Math.min(READ_AHEAD_BYTES, BULK_BYTES_MAX - this.#bulkBytes);
    const windowBytes = Math.max(PIECE_BYTES_MAX, freeBytes);
    this.#bulkBytes += windowBytes;
    try {
      const timeoutMs = this.#deadlineMs;
      yield* readAhead(this.#components.reader, blob, { ...range, windowBytes, timeoutMs, signal });
    } finally {
      this.#bulkBytes -= windowBytes;
    }
  }

  async #piece(blob: BlobRef, range: ByteRange, signal: AbortSignal): Promise<Uint8Array> {
    const { reader } = this.#components;
    const { offset, length } = range;
    const cached = reader.readCached(blob, offset, length);
    // The view dies at the next turn of the event loop, the socket may need it longer.
    const piece =
      cached?.slice() ??
      (await orAbort(
        reader.read(blob, offset, length, { kind: 'demand', timeoutMs: this.#deadlineMs, signal }),
        signal,
      ));
    assert(piece.length === length, `a read of ${length} bytes gave ${piece.length}`);
    return piece;
  }

  #start(exchange: Exchange, status: number, headers: OutgoingHttpHeaders): void {
    exchange.response.writeHead(status, headers);
    this.#requests.inc({ status: String(status) });
    this.#firstByte.observe({}, (this.#components.clock.nowMs() - exchange.startedMs) / 1000);
  }

  #refuse(response: ServerResponse, refusal: Refusal): void {
    const text = `${JSON.stringify(refusal.body)}\n`;
    this.#requests.inc({ status: String(refusal.status) });
    response.writeHead(refusal.status, {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(text),
      ...refusal.headers,
    });
    response.end(text);
  }
}

class ClientGoneError extends Error {}

class DeadlineError extends CodedError<{ readonly code: 'timeout' }> {
  constructor(deadlineMs: number) {
    super(`the bytes did not arrive within ${deadlineMs} ms from any source`, { code: 'timeout' });
  }
}

const OVERLOADED: Refusal = {
  status: 503,
  body: {
    error: `${RUNNING_MAX} reads are under way and ${WAITING_MAX} wait already`,
    code: 'overloaded',
  },
  headers: { 'retry-after': '1' },
};

/** Why a request is refused before any work, or undefined when it asks for a blob. */
function refusalOf(request: IncomingMessage, target: BlobTarget): Refusal | undefined {
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    const error = `${request.method ?? ''} is not supported here: only GET and HEAD are`;
    return { status: 405, body: { error, code: 'method' }, headers: { allow: 'GET, HEAD' } };
  }
  if (target.kind === 'no-url') {
    const error =
      'no origin URL follows the prefix: ask for /<prefix>/https://HOST/v2/NAME/blobs/sha256:HEX';
    return { status: 404, body: { error, code: 'no-url' } };
  }
  if (target.kind === 'no-digest') {
    const error = `the URL on ${target.host} names no sha256 digest; only blobs are served here, ask the registry itself`;
    return { status: 502, body: { error, code: 'no-digest' } };
  }
  return undefined;
}

function unsatisfiable(request: IncomingMessage, blob: BlobRef): Refusal {
  const shown = JSON.stringify(request.headers.range ?? '').slice(0, 100);
  const error = `Range ${shown} is not one range within the ${blob.sizeBytes} bytes of the blob`;
  return {
    status: 416,
    body: { error, code: 'range' },
    headers: { 'content-range': `bytes */${blob.sizeBytes}` },
  };
}

function headersOf(blob: BlobRef, range: ByteRange | 'whole'): OutgoingHttpHeaders {
  const partial = range !== 'whole';
  return {
    'content-type': 'application/octet-stream',
    'accept-ranges': 'bytes',
    etag: `"${blob.digest}"`,
    'content-length': partial ? range.length : blob.sizeBytes,
    ...(partial && {
      'content-range': `bytes ${range.offset}-${range.offset + range.length - 1}/${blob.sizeBytes}`,
    }),
  };
}

/** overlaybd refreshes its token or signed URL at 401 and 403; it takes other errors as they are. */
function statusOf(error: unknown): number {
  if (!(error instanceof CodedError)) return 500;
  switch (error.code) {
    case 'unauthorized':
      return 401;
    case 'denied':
      return 403;
    case 'not-found':
      return 404;
    case 'timeout':
    case 'deadline':
      return 504;
    case 'overloaded':
      return 503;
    default:
      return 502;
  }
}

/** The promise, or the signal's reason as soon as it aborts, even when what is behind the promise goes on. */
async function orAbort<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  let onAbort = (): void => {};
  const aborted = new Promise<never>((_, reject) => {
    onAbort = (): void => reject(signal.reason as Error);
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

/** Resolves when the socket takes more; rejects when it is gone. */
async function drained(response: ServerResponse, signal: AbortSignal): Promise<void> {
  const drain = new Promise<void>((resolve) => response.once('drain', resolve));
  await orAbort(drain, signal);
}
