import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http';
import type { BlobRef } from '../../image/block.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { Counter, Histogram, Metrics } from '../../runtime/metrics.ts';
import type { BlobReader } from '../../transfer/contracts/blob-reader.ts';
import { assert } from '../../util/assert.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { BufferPool } from '../../util/buffer-pool.ts';
import { CodedError } from '../../util/errors.ts';
import { Limiter } from '../../util/limiter.ts';
import { orAbort } from '../../util/or-abort.ts';
import { AccessError } from '../access/access.ts';
import {
  contentRangeOf,
  etagOf,
  headersOf,
  PRECONDITION_FAILED,
  refusalOfError,
  refusalOfRequest,
  unsatisfiable,
  type Refusal,
} from './answer.ts';
import type { BlobSender } from '../http/blob-sender.ts';
import { parseBlobTarget, type BlobTarget } from './target.ts';
import { parseByteRange, type ByteRange } from '../http/byte-range.ts';
import type { ClientOrigin } from '../access/client-origin.ts';
import { evaluateConditions, hasConditions } from '../http/conditions.ts';
import type { LocalRoute } from '../http/local-server.ts';
import { overlaybdMetrics } from './metrics.ts';
import type { PassThrough } from './pass-through.ts';
import type { BlobDirectory, RememberingGate } from '../access/contract.ts';

/** overlaybd gives up after 30 s and takes any answer before that: a clean error has to leave earlier. */
const DEADLINE_MS = 25_000;

/** Answers up to this size are read at once, before every prefetch; larger ones, and whole blobs, in pieces behind what others wait for. */
const PIECE_BYTES_MAX = 1024 * 1024;

/** Answers under way: with their pieces 256 MiB at most, beside what is read ahead. overlaybd opens few connections per device. */
const RUNNING_MAX = 256;

/** Answers in line behind them; beyond, 503. */
const WAITING_MAX = 1024;

/** Answers from memory of up to what overlaybd reads at a time go out of buffers that are used again: 64 of them are kept, 4 MiB. */
const HOT_BYTES_MAX = 64 * 1024;
const HOT_FREE_MAX = 64;

/** Such answers that clients have not taken yet, 64 MiB; beyond, they wait in line with the others. */
const HOT_RUNNING_MAX = 1024;

/** Request targets whose meaning is remembered: a client asks for parts of the same few blobs over and over. With 8 KiB each, 2 MiB. */
const TARGETS_MAX = 256;

export interface BlobEndpointComponents {
  readonly access: RememberingGate;
  readonly directory: BlobDirectory;
  readonly reader: BlobReader;
  readonly ways: Pick<ClientOrigin, 'note'>;
  readonly passThrough: Pick<PassThrough, 'answer'>;
  readonly sender: Pick<BlobSender, 'send'>;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

/** What is needed to answer one request. */
interface Exchange {
  readonly response: ServerResponse;
  readonly abort: AbortController;
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
  readonly #hotBuffers = new BufferPool({ slabBytes: HOT_BYTES_MAX, freeMax: HOT_FREE_MAX });
  #hotRunning = 0;
  readonly #targets = new BoundedMap<string, BlobTarget>({ entriesMax: TARGETS_MAX });
  readonly #requests: Counter;
  readonly #bytes: Counter;
  readonly #firstByte: Histogram;

  constructor(
    components: BlobEndpointComponents,
    init: { readonly prefix: string; readonly deadlineMs?: number },
  ) {
    this.#components = components;
    this.#prefix = init.prefix;
    this.#deadlineMs = init.deadlineMs ?? DEADLINE_MS;
    const { requests, responseBytes, firstByteSeconds } = overlaybdMetrics(components.metrics);
    this.#requests = requests;
    this.#bytes = responseBytes;
    this.#firstByte = firstByteSeconds;
  }

  handle(request: IncomingMessage, response: ServerResponse): boolean {
    const target = this.#targetOf(request.url ?? '');
    if (target.kind === 'elsewhere' || (target.kind === 'no-url' && this.#prefix === '')) {
      return false;
    }
    if (target.kind === 'blob' && this.#answerFromMemory(request, response, target)) return true;
    void this.#answer(request, response, target);
    return true;
  }

  #targetOf(text: string): BlobTarget {
    const known = this.#targets.get(text);
    if (known !== undefined) return known;
    const target = parseBlobTarget(text, this.#prefix);
    if (target.kind === 'blob') this.#targets.set(text, target);
    return target;
  }

  /** The common case, within one step: no timer, no promise, and a buffer that comes back. False when there is more to it. */
  #answerFromMemory(
    request: IncomingMessage,
    response: ServerResponse,
    { address, digest }: BlobTarget & { kind: 'blob' },
  ): boolean {
    const { access, directory, reader } = this.#components;
    const { headers } = request;
    if (request.method !== 'GET' || hasConditions(headers)) return false;
    const blob = directory.opened(digest);
    if (blob === undefined || !access.accepts(address, digest, headers.authorization)) return false;
    const range = parseByteRange(headers.range, blob.sizeBytes);
    if (typeof range === 'string' || range.length > HOT_BYTES_MAX) return false;
    if (this.#hotRunning >= HOT_RUNNING_MAX) return false;
    const cached = reader.readCached(blob, range.offset, range.length);
    // The buffer is used again: what is not written now are bytes of another client's answer. The long way says what is wrong.
    if (cached?.length !== range.length) return false;
    // The view dies at the next turn of the event loop, the socket may need it longer.
    const buffer = this.#hotBuffers.acquire(range.length);
    buffer.bytes.set(cached);
    this.#hotRunning++;
    response.once('close', () => {
      this.#hotRunning--;
      buffer.release();
    });
    response.writeHead(206, [
      'content-type',
      'application/octet-stream',
      'accept-ranges',
      'bytes',
      'etag',
      etagOf(blob),
      'content-length',
      String(range.length),
      'content-range',
      contentRangeOf(range, blob),
    ]);
    response.end(buffer.bytes);
    this.#requests.inc(PARTIAL);
    this.#bytes.inc(NO_LABELS, range.length);
    this.#firstByte.observe(NO_LABELS, 0);
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
    response.on('close', () => {
      // Also comes after a whole answer.
      if (!response.writableFinished) abort.abort(new ClientGoneError());
    });
    const exchange = { response, abort, signal: abort.signal, startedMs: clock.nowMs() };
    try {
      const refusal = refusalOfRequest(request, target);
      if (refusal !== undefined) return this.#refuse(response, refusal);
      const turn = this.#limiter.run(() => this.#serve(request, exchange, target));
      if (turn === undefined) return this.#refuse(response, OVERLOADED);
      await orAbort(turn, abort.signal);
    } catch (error) {
      if (error instanceof ClientGoneError) return;
      const where = target.kind === 'blob' ? { digest: target.digest } : {};
      logger.warn({ ...where, error }, 'could not answer a local read');
      if (response.headersSent) response.destroy();
      else this.#refuse(response, refusalOfError(error));
    } finally {
      timer.cancel();
    }
  }

  async #serve(request: IncomingMessage, exchange: Exchange, target: BlobTarget): Promise<void> {
    const { access } = this.#components;
    const { signal } = exchange;
    signal.throwIfAborted();
    if (target.kind === 'no-digest') return this.#passThrough(request, exchange, target.url);
    assert(target.kind === 'blob', 'everything else is refused');
    const { digest, address } = target;
    const { authorization } = request.headers;
    const options = { signal, ...(authorization !== undefined && { authorization }) };
    try {
      await orAbort(access.check(address, digest, options), signal);
    } catch (error) {
      if (!(error instanceof AccessError && error.code === 'not-shared')) throw error;
      return this.#passThrough(request, exchange, address.url);
    }
    const way = this.#components.ways.note(digest, address, authorization);
    // What a client can mend (a token that has expired) it is told at once, not when all else has failed too.
    const unwatch = way?.watch((error) => exchange.abort.abort(error));
    try {
      await this.#serveBlob(request, exchange, target);
    } finally {
      unwatch?.();
    }
  }

  #passThrough(request: IncomingMessage, exchange: Exchange, url: string): Promise<void> {
    const { response, signal } = exchange;
    const onStart = (status: number): void => this.#count(exchange, status);
    return this.#components.passThrough.answer(request, response, { url, signal, onStart });
  }

  async #serveBlob(
    request: IncomingMessage,
    exchange: Exchange,
    { digest, address }: BlobTarget & { kind: 'blob' },
  ): Promise<void> {
    const { response, signal } = exchange;
    const { directory } = this.#components;
    const blob = await orAbort(directory.open(digest, address, { signal }), signal);
    const condition = evaluateConditions(request.headers, etagOf(blob));
    if (condition === 'failed') return this.#refuse(response, PRECONDITION_FAILED);
    if (condition === 'not-modified') {
      this.#start(exchange, 304, { etag: etagOf(blob) });
      response.end();
      return;
    }
    const head = request.method === 'HEAD';
    // A Range has a meaning for GET alone (RFC 9110, section 14.2).
    const range =
      head || condition === 'whole'
        ? 'whole'
        : parseByteRange(request.headers.range, blob.sizeBytes);
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
    const { range, headers } = body;
    const start = (): void => {
      this.#start(exchange, 'content-range' in headers ? 206 : 200, headers);
    };
    const onBytes = (count: number): void => this.#bytes.inc(NO_LABELS, count);
    if (range.length === blob.sizeBytes || range.length > PIECE_BYTES_MAX) {
      await this.#components.sender.send({ response, blob, range, signal, start, onBytes });
      return;
    }
    const piece = await this.#piece(blob, range, signal);
    start();
    onBytes(piece.length);
    response.end(piece);
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
    this.#count(exchange, status);
  }

  #count(exchange: Exchange, status: number): void {
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

const NO_LABELS = {};
const PARTIAL = { status: '206' };

const OVERLOADED: Refusal = {
  status: 503,
  body: {
    error: `${RUNNING_MAX} reads are under way and ${WAITING_MAX} wait already`,
    code: 'overloaded',
  },
  headers: { 'retry-after': '1' },
};
