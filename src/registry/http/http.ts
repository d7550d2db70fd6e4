import type { IncomingHttpHeaders } from 'node:http';
import { Readable } from 'node:stream';
import { errors, type Dispatcher } from 'undici';
import type { Clock, Timer } from '../../runtime/clock.ts';
import { errorText } from '../../util/errors.ts';
import { protocolError, RegistryError } from '../errors.ts';
import type { RegistryMetrics } from '../metrics.ts';

/** Nothing arrives for this long after a request was sent, or after a piece of the answer: the attempt is given up. (tunable) */
const SILENCE_MS_MAX = 10_000;

export interface HttpRequest {
  readonly method: 'GET' | 'HEAD' | 'POST' | 'PUT';
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: HttpBody | undefined;
}

/** What is sent: a piece, or pieces from the start. Its length stands in the headers. */
export type HttpBody = Uint8Array | AsyncIterable<Uint8Array>;

export interface HttpHead {
  readonly status: number;
  /** Names in lower case. */
  readonly headers: IncomingHttpHeaders;
}

/** Takes the body of one answer. Whatever it throws ends the exchange, and is what the caller gets. */
export interface BodySink {
  /** The piece is used before the call returns. False when the rest is not wanted: the exchange has succeeded then. */
  write(piece: Uint8Array): boolean;
  /** The body is complete. */
  end(): void;
  /** The connection broke within the body. True when what has come will do. */
  cut(): boolean;
}

export interface HttpAnswer<S> {
  readonly head: HttpHead;
  readonly sink: S;
}

/** Sends single requests: no redirects, no retries, no credentials of its own. */
export class HttpSender {
  readonly #clock: Clock;
  readonly #dispatcher: Dispatcher;
  readonly #metrics: RegistryMetrics;

  constructor(components: { clock: Clock; dispatcher: Dispatcher; metrics: RegistryMetrics }) {
    this.#clock = components.clock;
    this.#dispatcher = components.dispatcher;
    this.#metrics = components.metrics;
  }

  /**
   * Resolves when the sink has the body; whatever the status. After it has settled the sink is called no more, so that buffers
   * behind it may be used again. Rejects with RegistryError, or with the signal's reason.
   */
  send<S extends BodySink>(
    request: HttpRequest,
    open: (head: HttpHead) => S,
    signal: AbortSignal,
  ): Promise<HttpAnswer<S>> {
    const { promise, resolve, reject } = Promise.withResolvers<HttpAnswer<S>>();
    const exchange = new Exchange<S>({
      clock: this.#clock,
      metrics: this.#metrics,
      request,
      open,
      signal,
      resolve,
      reject,
    });
    if (!exchange.settled) this.#dispatch(request, exchange);
    return promise;
  }

  #dispatch<S extends BodySink>(request: HttpRequest, exchange: Exchange<S>): void {
    const { url, body } = request;
    this.#dispatcher.dispatch(
      {
        origin: url.origin,
        path: `${url.pathname}${url.search}`,
        method: request.method,
        headers: { 'user-agent': 'xylem', 'accept-encoding': 'identity', ...request.headers },
        body:
          body === undefined || body instanceof Uint8Array
            ? (body ?? null)
            : Readable.from(exchange.watched(body)),
      },
      exchange,
    );
  }
}

interface ExchangeInit<S> {
  readonly clock: Clock;
  readonly metrics: RegistryMetrics;
  readonly request: HttpRequest;
  readonly open: (head: HttpHead) => S;
  readonly signal: AbortSignal;
  readonly resolve: (answer: HttpAnswer<S>) => void;
  readonly reject: (reason: unknown) => void;
}

/** One request under way. Life: waits for a connection -> sent -> head -> body -> settled; settled once, from any state. */
class Exchange<S extends BodySink> implements Dispatcher.DispatchHandler {
  readonly #init: ExchangeInit<S>;
  readonly #onAbort = (): void => this.#fail(this.#init.signal.reason);
  #controller: Dispatcher.DispatchController | undefined;
  #silence: Timer | undefined;
  #heardMs = 0;
  #answer: HttpAnswer<S> | undefined;
  settled = false;

  constructor(init: ExchangeInit<S>) {
    this.#init = init;
    if (init.signal.aborted) this.#onAbort();
    else init.signal.addEventListener('abort', this.#onAbort, { once: true });
  }

  /** The pieces; a server that takes them is not silent. */
  async *watched(body: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    for await (const piece of body) {
      this.#heardMs = this.#init.clock.nowMs();
      yield piece;
    }
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller;
    if (this.settled) return controller.abort(new Error('given up before it was sent'));
    this.#heardMs = this.#init.clock.nowMs();
    this.#watchSilence();
  }

  onResponseStart(
    _controller: Dispatcher.DispatchController,
    status: number,
    headers: IncomingHttpHeaders,
  ): void {
    // 1xx answers announce the real one.
    if (this.settled || status < 200) return;
    this.#heardMs = this.#init.clock.nowMs();
    this.#guard(() => {
      const head = { status, headers };
      this.#answer = { head, sink: this.#init.open(head) };
    });
  }

  onResponseData(_controller: Dispatcher.DispatchController, piece: Uint8Array): void {
    const answer = this.#answer;
    if (this.settled || answer === undefined) return;
    this.#heardMs = this.#init.clock.nowMs();
    this.#init.metrics.receivedBytes.inc({}, piece.length);
    this.#guard(() => {
      if (answer.sink.write(piece)) return;
      this.#succeed(answer);
      this.#controller?.abort(new Error('the rest of the body is not wanted'));
    });
  }

  onResponseEnd(): void {
    const answer = this.#answer;
    if (this.settled || answer === undefined) return;
    this.#guard(() => {
      answer.sink.end();
      this.#succeed(answer);
    });
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    const answer = this.#answer;
    if (!this.settled && answer?.sink.cut() === true) this.#succeed(answer);
    else this.#fail(this.#failure(error));
  }

  #guard(action: () => void): void {
    try {
      action();
    } catch (error) {
      this.#fail(error);
    }
  }

  #watchSilence(): void {
    const { clock, request } = this.#init;
    this.#silence?.cancel();
    const leftMs = this.#heardMs + SILENCE_MS_MAX - clock.nowMs();
    this.#silence = clock.setTimer(leftMs, () => {
      if (clock.nowMs() - this.#heardMs < SILENCE_MS_MAX) return this.#watchSilence();
      const what = `${request.method} ${safeUrl(request.url)}: silent for ${SILENCE_MS_MAX} ms`;
      this.#fail(new RegistryError(what, { code: 'timeout', timeoutMs: SILENCE_MS_MAX }));
    });
  }

  #succeed(answer: HttpAnswer<S>): void {
    this.#settle(statusLabel(answer.head.status));
    this.#init.resolve(answer);
  }

  #fail(reason: unknown): void {
    if (this.settled) return;
    this.#settle('error');
    this.#controller?.abort(reason instanceof Error ? reason : new Error(errorText(reason)));
    this.#init.reject(reason);
  }

  #settle(outcome: string): void {
    const { metrics, signal, request } = this.#init;
    this.settled = true;
    this.#silence?.cancel();
    signal.removeEventListener('abort', this.#onAbort);
    metrics.requests.inc({ method: request.method, outcome });
  }

  #failure(cause: Error): RegistryError {
    const { request } = this.#init;
    const what = `${request.method} ${safeUrl(request.url)}`;
    if (cause instanceof errors.HTTPParserError) {
      return protocolError('not-http', `${what}: the answer is not HTTP`, cause);
    }
    if (this.#answer !== undefined) {
      return protocolError('short-body', `${what}: the connection broke within the body`, cause);
    }
    const advice = isCertificateError(cause)
      ? '; name the authority that signs it in registries[].caFile'
      : '';
    const why = `${what}: no answer: ${reasonText(cause)}${advice}`;
    return new RegistryError(why, { code: 'unavailable' }, { cause });
  }
}

/** What OpenSSL and Node say about a certificate that does not convince: https://nodejs.org/api/tls.html#x509-certificate-error-codes */
const CERTIFICATE_ERROR =
  /^(CERT_|UNABLE_TO_|SELF_SIGNED_CERT|DEPTH_ZERO_SELF_SIGNED_CERT$|ERR_TLS_CERT_)/;

/** Whether the server's certificate is the trouble: another attempt meets the same. */
export function isCertificateError(error: unknown): boolean {
  return CERTIFICATE_ERROR.test(String((error as { code?: unknown } | undefined)?.code));
}

/** The URL without its query: signatures of storage servers are secrets. */
export function safeUrl(url: URL): string {
  return `${url.origin}${url.pathname}`;
}

/** Errors of connecting to several addresses have their texts inside. */
function reasonText(error: Error): string {
  if (error instanceof AggregateError) return error.errors.map(errorText).join('; ');
  return error.message === '' ? String((error as { code?: unknown }).code) : error.message;
}

/** The status as the metrics know it. */
export function statusLabel(status: number): string {
  return status === 401 || status === 429 ? String(status) : `${Math.floor(status / 100)}xx`;
}
