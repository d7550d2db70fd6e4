import type { IncomingMessage, ServerResponse } from 'node:http';
import type { BlobRef } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { Counter, Histogram, Metrics } from '../../runtime/metrics.ts';
import type { OpaqueUrl } from '../../registry/opaque-url.ts';
import type { BlobReader } from '../../transfer/contracts/blob-reader.ts';
import { assert } from '../../util/assert.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { BufferPool } from '../../util/buffer-pool.ts';
import { Limiter } from '../../util/limiter.ts';
import { orAbort } from '../../util/or-abort.ts';
import { AccessError } from '../access/access-error.ts';
import type { BlobAddress, BlobGate, GrantedBlob } from '../access/contract.ts';
import type { OpaqueBlob, OpaqueBlobs } from '../access/opaque-blobs.ts';
import { overloadedError } from '../http/blob-error.ts';
import { blobResponse } from '../http/blob-response.ts';
import type { BlobSender } from '../http/blob-sender.ts';
import type { ByteRange } from '../http/byte-range.ts';
import { Exchanges, type Exchange } from '../http/exchange.ts';
import { HeldBytes } from '../http/held-bytes.ts';
import type { LocalRoute } from '../http/local-server.ts';
import { httpMetrics } from '../http/metrics.ts';
import { refusalOfBlob, refusalOfError, refusalOfRequest, type Refusal } from './answer.ts';
import { overlaybdMetrics } from './metrics.ts';
import type { PassThrough } from './pass-through.ts';
import { parseBlobTarget, type BlobTarget } from './target.ts';

/**
 * overlaybd gives up after 30 s and takes any answer before that: a clean error has to leave
 * earlier.
 */
const DEADLINE_MS = 25_000;

/**
 * Answers up to this size are read at once, before every prefetch; larger ones, and whole blobs, in
 * pieces behind what others wait for.
 */
const PIECE_BYTES_MAX = 1024 * 1024;

/** Reads in flight. overlaybd opens few connections per device. */
const RUNNING_MAX = 256;

/** Requests in line behind them; beyond, 503. */
const WAITING_MAX = 1024;

/**
 * Memory of answers that are read at once, until their clients have taken them; the next ones wait.
 */
const HELD_BYTES_MAX = 96 * 1024 * 1024;

/** A read ends so much before the request does: its error says which source failed and why. */
const REASON_MS = 250;

/**
 * overlaybd has no other way to its blob: a moment in which neither roots nor registry answer must
 * not fail its read. (tunable)
 */
const OPEN_PATIENCE_MS = 10_000;

/**
 * Answers from memory of up to what overlaybd reads at a time go out of buffers that are used
 * again: 64 of them are kept, 4 MiB.
 */
const HOT_BYTES_MAX = 64 * 1024;
const HOT_FREE_MAX = 64;

/**
 * Such answers that clients have not taken yet, 64 MiB beside the others; beyond, they wait in line
 * with the others.
 */
const HOT_RUNNING_MAX = 1024;

/**
 * Request targets whose meaning is remembered: a client asks for parts of the same few blobs over
 * and over. With 8 KiB each, 2 MiB.
 */
const TARGETS_MAX = 256;

/** How often a request begins anew because something else stands at its URL now; then 502. */
const OPAQUE_ATTEMPTS_MAX = 3;

/** What a BlobEndpoint works with. */
export interface BlobEndpointComponents {
  readonly gate: BlobGate;
  readonly opaque: Pick<OpaqueBlobs, 'known' | 'identify' | 'hasChanged'>;
  readonly reader: BlobReader;
  readonly passThrough: Pick<PassThrough, 'answer'>;
  readonly sender: Pick<BlobSender, 'send'>;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

/** A request for a blob. */
interface BlobRead {
  /** Of an opaque blob: the key of its blocks, which its client does not know. */
  readonly digest: Digest;
  readonly address: BlobAddress;
}

/** What is left to do of a request without a place among the reads. */
type Rest = () => Promise<void>;

/**
 * Blobs for overlaybd: `GET /<prefix>/<origin URL>` with one Range, answered from wherever the
 * blocks are.
 *
 * overlaybd turns a broken answer into an I/O error of the container. So the first bytes are read
 * before the status is sent, and a failure until then is a clean 4xx or 5xx; when a later piece
 * fails the connection is cut, since a short body is the only other way to say so.
 */
export class BlobEndpoint implements LocalRoute {
  readonly #components: BlobEndpointComponents;
  readonly #prefix: string;
  readonly #isConfigured: (host: string) => boolean;
  readonly #exchanges: Exchanges;
  readonly #held: HeldBytes;
  readonly #limiter = new Limiter({ runningMax: RUNNING_MAX, waitingMax: WAITING_MAX });
  readonly #hotBuffers = new BufferPool({ slabBytes: HOT_BYTES_MAX, freeMax: HOT_FREE_MAX });
  #hotRunning = 0;
  readonly #targets = new BoundedMap<string, BlobTarget>({ entriesMax: TARGETS_MAX });
  readonly #requests: Counter;
  readonly #bytes: Counter;
  readonly #firstByte: Histogram;

  constructor(
    components: BlobEndpointComponents,
    init: {
      readonly prefix: string;
      /** Whether the configuration names the registry, and so says whether HTTP will do. */
      readonly isConfigured: (host: string) => boolean;
      readonly deadlineMs?: number;
    },
  ) {
    this.#components = components;
    this.#prefix = init.prefix;
    this.#isConfigured = init.isConfigured;
    this.#exchanges = new Exchanges(components, {
      deadlineMs: init.deadlineMs ?? DEADLINE_MS,
      message: 'could not answer a local read',
    });
    const { heldBytes, cut } = httpMetrics(components.metrics);
    this.#held = new HeldBytes(
      { clock: components.clock, gauge: heldBytes, cut },
      { bytesMax: HELD_BYTES_MAX, kind: 'read' },
    );
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
    const read = this.#readOf(request, target);
    if (read !== undefined && this.#answerFromMemory(request, response, read)) return true;
    void this.#answer(request, response, target);
    return true;
  }

  #targetOf(text: string): BlobTarget {
    const known = this.#targets.get(text);
    if (known !== undefined) return known;
    const parsed = parseBlobTarget(text, this.#prefix);
    const target = this.#isForged(parsed) ? passedThrough(parsed) : parsed;
    if (target.kind === 'blob' || target.kind === 'opaque') this.#targets.set(text, target);
    return target;
  }

  /**
   * Over plain HTTP anybody on the path can play a registry that nobody configured: what comes so
   * is for its client alone, and says nothing of the registry.
   */
  #isForged(target: BlobTarget): target is BlobTarget & { kind: 'blob' } {
    if (target.kind !== 'blob' || target.address.scheme === 'https') return false;
    return target.address.repository !== '' && !this.#isConfigured(target.address.registry);
  }

  /** The blob that the request names, as far as that is known without asking anybody. */
  #readOf({ headers }: IncomingMessage, target: BlobTarget): BlobRead | undefined {
    if (target.kind === 'blob') return target;
    if (target.kind !== 'opaque' || headers.authorization !== undefined) return undefined;
    const known = this.#components.opaque.known(target.url);
    return known && { digest: known.key, address: known.address };
  }

  /**
   * The common case, within one step: no timer, no promise, and a buffer that comes back. False
   * when there is more to it.
   */
  #answerFromMemory(request: IncomingMessage, response: ServerResponse, read: BlobRead): boolean {
    if (request.method !== 'GET' || this.#hotRunning >= HOT_RUNNING_MAX) return false;
    const blob = this.#opened(request, read);
    if (blob === undefined) return false;
    const answer = blobResponse(request, shownBlob(read.digest, blob), etagOf(read));
    if (answer.kind !== 'body' || answer.status !== 206) return false;
    const { offset, length } = answer.range;
    if (length > HOT_BYTES_MAX) return false;
    const cached = this.#components.reader.readCached(blob, offset, length);
    // The buffer is used again: what is not written now are bytes of another client's answer. The
    // long way says what is wrong.
    if (cached?.length !== length) return false;
    // The view dies at the next turn of the event loop, the socket may need it longer.
    const buffer = this.#hotBuffers.acquire(length);
    buffer.bytes.set(cached);
    this.#hotRunning++;
    response.once('close', () => {
      this.#hotRunning--;
      buffer.release();
    });
    response.writeHead(206, answer.headers);
    response.end(buffer.bytes);
    this.#requests.inc(PARTIAL);
    this.#bytes.inc(NO_LABELS, length);
    this.#firstByte.observe(NO_LABELS, 0);
    return true;
  }

  /** The blob, if this request may read it as far as is known without asking anybody. */
  #opened(request: IncomingMessage, { digest, address }: BlobRead): BlobRef | undefined {
    const { authorization } = request.headers;
    return this.#components.gate.opened({ digest, address, authorization })?.blob;
  }

  /** The blob, once this request is found to be allowed to read it. Rejects with AccessError. */
  async #open(
    request: IncomingMessage,
    exchange: Exchange,
    { digest, address }: BlobRead,
  ): Promise<BlobRef> {
    const { signal } = exchange;
    const { authorization } = request.headers;
    const { gate } = this.#components;
    const asked = { digest, address, authorization, patienceMs: OPEN_PATIENCE_MS, signal };
    const { blob, way } = await gate.open(asked);
    // What a client can mend (a token that has expired) it is told at once, not when all else has
    // failed too.
    signal.addEventListener('abort', way.watch(exchange.abort), { once: true });
    return blob;
  }

  /** Never rejects. */
  async #answer(
    request: IncomingMessage,
    response: ServerResponse,
    target: BlobTarget,
  ): Promise<void> {
    const refusal = refusalOfRequest(request.method, target);
    if (refusal !== undefined) return this.#refuse(response, refusal);
    await this.#exchanges.run(response, {
      fields: target.kind === 'blob' ? { digest: target.digest } : {},
      serve: (exchange) => this.#serve(request, exchange, target),
      refuse: (error) => this.#refuse(response, refusalOfError(error)),
    });
  }

  /**
   * Reads have places; what is streamed from elsewhere as its client takes it has places of its
   * own, so that no read waits for it.
   */
  async #serve(request: IncomingMessage, exchange: Exchange, target: BlobTarget): Promise<void> {
    if (target.kind === 'no-digest') return this.#passThrough(request, exchange, target.url);
    if (target.kind === 'opaque') return this.#serveOpaque(request, exchange, target.url);
    assert(target.kind === 'blob', 'everything else is refused');
    await this.#inTurn(exchange, async () => {
      const blob = await this.#open(request, exchange, target);
      return this.#serveBlob(request, exchange, { read: target, blob });
    });
  }

  async #inTurn(
    { signal }: Pick<Exchange, 'signal'>,
    read: () => Promise<Rest | undefined>,
  ): Promise<void> {
    const turn = this.#limiter.run(read, signal);
    if (turn === undefined) {
      throw overloadedError(`${RUNNING_MAX} reads are in flight and ${WAITING_MAX} wait already`);
    }
    const rest = await turn;
    await rest?.();
  }

  /**
   * An object without a digest is read as a blob where its storage says enough of it. All else is
   * passed through, so that its client hears what the storage says.
   */
  async #serveOpaque(request: IncomingMessage, exchange: Exchange, url: OpaqueUrl): Promise<void> {
    const { opaque } = this.#components;
    const isSigned = request.headers.authorization === undefined;
    for (let attempt = 1; ; attempt++) {
      const found = isSigned ? await opaque.identify(url, exchange.signal) : undefined;
      const granted = found && (await this.#openOpaque(found, exchange));
      if (found === undefined || granted === undefined) {
        return this.#passThrough(request, exchange, url.url);
      }
      try {
        return await this.#sendOpaque(request, exchange, { found, granted });
      } catch (error) {
        const { signal, response } = exchange;
        if (response.headersSent || signal.aborted || attempt === OPAQUE_ATTEMPTS_MAX) throw error;
        if (!(await opaque.hasChanged(found.key, url, signal))) throw error;
      }
    }
  }

  async #openOpaque(
    { key, address }: OpaqueBlob,
    { signal }: Exchange,
  ): Promise<GrantedBlob | undefined> {
    const shownBytes = address.opaque.sizeBytes;
    const asked = { digest: key, address, authorization: undefined, shownBytes, signal };
    try {
      return await this.#components.gate.open(asked);
    } catch (error) {
      if (error instanceof AccessError) return undefined;
      throw error;
    }
  }

  /** A change ends the read, not the exchange: the client gets what stands there now. */
  async #sendOpaque(
    request: IncomingMessage,
    exchange: Exchange,
    { found, granted }: { readonly found: OpaqueBlob; readonly granted: GrantedBlob },
  ): Promise<void> {
    const change = new AbortController();
    const signal = AbortSignal.any([exchange.signal, change.signal]);
    const unwatch = granted.way.watch((error) => {
      if (error.code === 'other-content') change.abort(error);
      else exchange.abort(error);
    });
    const own: Exchange = { ...exchange, signal };
    const read = { digest: found.key, address: found.address };
    try {
      const send = this.#inTurn(own, () =>
        this.#serveBlob(request, own, { read, blob: granted.blob }),
      );
      await orAbort(send, signal);
    } finally {
      unwatch();
    }
  }

  #passThrough(request: IncomingMessage, exchange: Exchange, url: string): Promise<void> {
    const onStart = (status: number): void => this.#count(exchange, status);
    return this.#components.passThrough.answer(request, exchange, { url, onStart });
  }

  async #serveBlob(
    request: IncomingMessage,
    exchange: Exchange,
    { read, blob }: { readonly read: BlobRead; readonly blob: BlobRef },
  ): Promise<Rest | undefined> {
    const { response, signal } = exchange;
    const digest = read.address.opaque === undefined ? read.digest : undefined;
    const answer = blobResponse(request, shownBlob(read.digest, blob), etagOf(read));
    if (answer.kind === 'refusal') return void this.#refuse(response, refusalOfBlob(answer));
    const { status, headers } = answer;
    const start = (): void => {
      // What was given up may have been answered in another way.
      signal.throwIfAborted();
      response.writeHead(status, headers);
      this.#count(exchange, status);
    };
    if (answer.kind === 'head') {
      start();
      response.end();
      return undefined;
    }
    const { range } = answer;
    if (range.length === blob.sizeBytes || range.length > PIECE_BYTES_MAX) {
      const onBytes = (count: number): void => this.#bytes.inc(NO_LABELS, count);
      const body = { response, digest, blob, range, signal, start, onBytes };
      return () => this.#components.sender.send(body);
    }
    await this.#held.run({ response, bytes: range.length, signal }, async () => {
      const piece = await this.#piece(blob, range, exchange);
      start();
      this.#bytes.inc(NO_LABELS, piece.length);
      response.end(piece);
    });
    return undefined;
  }

  async #piece(
    blob: BlobRef,
    { offset, length }: ByteRange,
    { signal, deadlineMs }: Exchange,
  ): Promise<Uint8Array> {
    const { reader, clock } = this.#components;
    const cached = reader.readCached(blob, offset, length);
    const timeoutMs = Math.max(1, deadlineMs - REASON_MS - clock.nowMs());
    // The view dies at the next turn of the event loop, the socket may need it longer.
    const piece =
      cached?.slice() ??
      (await orAbort(
        reader.read(blob, offset, length, { kind: 'demand', timeoutMs, signal, endsOnNo: true }),
        signal,
      ));
    assert(piece.length === length, `a read of ${length} bytes gave ${piece.length}`);
    return piece;
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

/** The blob as its client knows it: blocks of a source that is not believed have another key. */
function shownBlob(digest: Digest, blob: BlobRef): BlobRef {
  return blob.digest === digest ? blob : { digest, sizeBytes: blob.sizeBytes };
}

/** The validator of a blob without a digest; undefined where the digest is one. */
function etagOf({ address }: BlobRead): string | undefined {
  return address.opaque?.etag;
}

const NO_LABELS = {};
const PARTIAL = { status: '206' };

function passedThrough({ address }: BlobTarget & { kind: 'blob' }): BlobTarget {
  return { kind: 'no-digest', url: address.url };
}
