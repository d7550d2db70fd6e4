import type { IncomingHttpHeaders } from 'node:http';
import { Readable } from 'node:stream';
import { errors, type Dispatcher } from 'undici';
import type { Clock, Timer } from '../../runtime/clock.ts';
import { DeadlineError } from '../../runtime/deadline.ts';
import { Counts } from '../../util/counts.ts';
import { errorText } from '../../util/errors.ts';
import { protocolError, RegistryError } from '../errors.ts';
import type { RegistryMetrics } from '../metrics.ts';
import { ForbiddenAddressError, type Connections, type ConnectionUse } from './connections.ts';
import {
  safeUrl,
  type BodySink,
  type Flow,
  type HttpAnswer,
  type HttpHead,
  type HttpRequest,
  type HttpStream,
} from './message.ts';
import type { Asking, Lane, Pacers } from './pacer.ts';
import { parseRetryAfter } from './retry-after.ts';
import { StreamSink } from './stream-sink.ts';
import { TLS_HINTS, tlsTroubleOf, type TlsHints } from './tls-errors.ts';

/**
 * Nothing arrives for this long after a request was sent, or after a piece of the answer: the
 * attempt is given up. (tunable)
 */
export const SILENCE_MS_MAX = 10_000;

/** Where the distribution API is asked, and the repository in the rest of such a path. */
const API_PATH = '/v2/';
const REPOSITORY = /^([^?]+)\/(?:blobs|manifests|tags|referrers)\//;

/** What `HttpSender` uses. */
export interface HttpSenderComponents {
  readonly clock: Clock;
  readonly metrics: RegistryMetrics;
  readonly connections: Connections;
  readonly pacers: Pacers;
  /** In place of those for a configuration. */
  readonly tlsHints?: TlsHints | undefined;
}

/** How `HttpSender` connects. */
export interface HttpSenderInit extends Omit<ConnectionUse, 'isGuarded' | 'isForClient'> {
  readonly lane: Exclude<Lane, 'asked'>;
  /** Whether a request to this URL may reach public addresses alone. */
  readonly isGuarded: (url: URL) => boolean;
  /** Whether the operator says that this server is asked over plain HTTP; never when absent. */
  readonly mayBePlain?: (url: URL) => boolean;
  /** Where the distribution API of a mirror begins, up to its `/v2/`, when not at `/v2/`. */
  readonly apiPath?: string | undefined;
}

/**
 * Sends single requests: no redirects, no retries, no credentials of its own. What goes to the
 * distribution API of a host (`/v2/`) waits for its turn there, and what the host says of
 * Retry-After holds for all senders of the same lane that ask for the same (`Asking`).
 */
export class HttpSender {
  readonly #components: HttpSenderComponents;
  readonly #init: HttpSenderInit;
  /** How many answers of each server are on their way, by its origin. */
  readonly #answering = new Counts<string>();

  constructor(components: HttpSenderComponents, init: HttpSenderInit) {
    this.#components = components;
    this.#init = init;
  }

  /** Whether a server over HTTPS may lead to this URL, over plain HTTP. */
  mayBePlain(url: URL): boolean {
    return this.#init.mayBePlain?.(url) === true;
  }

  /**
   * Resolves when the sink has the body; whatever the status. After it has settled the sink is
   * called no more, so that buffers behind it may be used again. Rejects with RegistryError
   * (`overloaded` when a plain deadline passes before it was sent, because others have the
   * connections), or with the signal's reason.
   */
  async send<S extends BodySink>(
    request: HttpRequest,
    open: (head: HttpHead, flow: Flow) => S,
    signal: AbortSignal,
  ): Promise<HttpAnswer<S>> {
    const { clock, metrics, pacers, tlsHints } = this.#components;
    const isApi = this.#within(request) !== undefined;
    const pacer = isApi ? pacers.of(request.url.host, this.#laneOf(request)) : undefined;
    const asking = this.#askingOf(request);
    await pacer?.turn(asking, signal);
    const { promise, resolve, reject } = Promise.withResolvers<HttpAnswer<S>>();
    const exchange = new Exchange<S>({
      ...{ clock, metrics, tlsHints },
      request,
      open: (head, flow) => {
        const pauseMs = pauseOf(head, clock.wallMs());
        if (pauseMs !== undefined) pacer?.pause(asking, pauseMs);
        return open(head, flow);
      },
      signal,
      answering: this.#answering,
      resolve,
      reject,
    });
    if (!exchange.settled) this.#dispatch(request, exchange);
    return promise;
  }

  /**
   * Resolves with the head; the body comes as fast as it is read. Rejects, and its body fails, as
   * `send()` does.
   */
  stream(request: HttpRequest, signal: AbortSignal): Promise<HttpStream> {
    const { promise, resolve, reject } = Promise.withResolvers<HttpStream>();
    const open = (head: HttpHead, flow: Flow): StreamSink => {
      const sink = new StreamSink(flow);
      resolve({ head, body: sink.body });
      sent.catch((error: unknown) => sink.fail(error));
      return sink;
    };
    const sent = this.send(request, open, signal);
    sent.catch(reject);
    return promise;
  }

  #dispatch<S extends BodySink>(request: HttpRequest, exchange: Exchange<S>): void {
    const { url, body, rawPath } = request;
    const { isGuarded, lane, showsCertificate } = this.#init;
    this.#components.connections.dispatch(
      {
        origin: url.origin,
        path: rawPath ?? `${url.pathname}${url.search}`,
        method: request.method,
        headers: { 'user-agent': 'xylem', 'accept-encoding': 'identity', ...request.headers },
        body:
          body === undefined || body instanceof Uint8Array
            ? (body ?? null)
            : Readable.from(exchange.watched(body)),
      },
      exchange,
      { isForClient: lane === 'client', showsCertificate, isGuarded: isGuarded(url) },
    );
  }

  /**
   * The path within the distribution API; undefined when the request is none of it: token servers
   * and storage do not count against the limits of a registry.
   */
  #within({ url, rawPath }: HttpRequest): string | undefined {
    const { apiPath = API_PATH } = this.#init;
    const path = rawPath ?? url.pathname;
    return path.startsWith(apiPath) ? path.slice(apiPath.length) : undefined;
  }

  /** The agent's own tokens come and go: what it is told holds for the repository. */
  #askingOf(request: HttpRequest): Asking {
    const { headers } = request;
    const [, repository = ''] = REPOSITORY.exec(this.#within(request) ?? '') ?? [];
    const isForClient = this.#init.lane === 'client';
    return { repository, authorization: isForClient ? headers['authorization'] : undefined };
  }

  #laneOf({ isQuestion }: HttpRequest): Lane {
    const { lane } = this.#init;
    return lane === 'own' && isQuestion === true ? 'asked' : lane;
  }
}

/** For how long the server wants to be left alone, in milliseconds. */
function pauseOf({ status, headers }: HttpHead, wallMs: number): number | undefined {
  if (status !== 429 && status !== 408 && status !== 425 && status < 500) return undefined;
  return parseRetryAfter(headers['retry-after'], wallMs);
}

interface ExchangeInit<S> {
  readonly clock: Clock;
  readonly metrics: RegistryMetrics;
  readonly tlsHints: TlsHints | undefined;
  readonly request: HttpRequest;
  readonly open: (head: HttpHead, flow: Flow) => S;
  readonly signal: AbortSignal;
  readonly answering: Counts<string>;
  readonly resolve: (answer: HttpAnswer<S>) => void;
  readonly reject: (reason: unknown) => void;
}

/**
 * One request in flight. Life: waits for a connection -> sent -> head -> body -> settled; settled
 * once, from any state.
 */
class Exchange<S extends BodySink> implements Dispatcher.DispatchHandler {
  readonly #init: ExchangeInit<S>;
  readonly #onAbort = (): void => this.#fail(this.#abortReason());
  #controller: Dispatcher.DispatchController | undefined;
  #silence: Timer | undefined;
  #heardMs = 0;
  #answer: HttpAnswer<S> | undefined;
  #isPaused = false;
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
    if (this.#init.request.isPatient !== true) this.#watchSilence();
  }

  onResponseStart(
    _controller: Dispatcher.DispatchController,
    status: number,
    headers: IncomingHttpHeaders,
  ): void {
    // 1xx answers announce the real one.
    if (this.settled || status < 200) return;
    this.#heardMs = this.#init.clock.nowMs();
    if (this.#init.request.isPatient === true) this.#watchSilence();
    this.#guard(() => {
      const head = { status, headers };
      this.#answer = { head, sink: this.#init.open(head, this.#flow()) };
      if (!this.settled) this.#init.answering.add(this.#init.request.url.origin);
    });
  }

  onResponseData(_controller: Dispatcher.DispatchController, piece: Uint8Array): void {
    const answer = this.#answer;
    if (this.settled || answer === undefined) return;
    this.#heardMs = this.#init.clock.nowMs();
    this.#init.metrics.receivedBytes.inc({}, piece.length);
    this.#guard(() => {
      if (!answer.sink.write(piece)) this.#stop();
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

  #flow(): Flow {
    return {
      pause: () => {
        this.#isPaused = true;
        this.#controller?.pause();
      },
      resume: () => {
        if (!this.#isPaused || this.settled) return;
        this.#isPaused = false;
        this.#heardMs = this.#init.clock.nowMs();
        this.#controller?.resume();
      },
      stop: () => this.#stop(),
    };
  }

  #stop(): void {
    if (this.settled || this.#answer === undefined) return;
    this.#succeed(this.#answer);
    this.#controller?.abort(new Error('the rest of the body is not wanted'));
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
    const { silenceMs = SILENCE_MS_MAX } = request;
    this.#silence?.cancel();
    const leftMs = this.#heardMs + silenceMs - clock.nowMs();
    this.#silence = clock.setTimer(leftMs, () => {
      // The reader is slow, not the server.
      if (this.#isPaused) this.#heardMs = clock.nowMs();
      if (clock.nowMs() - this.#heardMs < silenceMs) return this.#watchSilence();
      const what = `${request.method} ${safeUrl(request.url)}: silent for ${silenceMs} ms`;
      this.#fail(new RegistryError(what, { code: 'timeout', timeoutMs: silenceMs }));
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
    const { metrics, signal, request, answering } = this.#init;
    if (this.#answer !== undefined) answering.remove(request.url.origin);
    this.settled = true;
    this.#silence?.cancel();
    signal.removeEventListener('abort', this.#onAbort);
    metrics.requests.inc({ method: request.method, outcome });
  }

  /** A server that answers others was not silent: this request has waited for a connection. */
  #abortReason(): unknown {
    const { signal, request, answering } = this.#init;
    const isUnsent = this.#controller === undefined && answering.has(request.url.origin);
    if (!isUnsent || !(signal.reason instanceof DeadlineError)) return signal.reason;
    const what = `${request.url.host} was not asked: all connections to it are taken`;
    return new RegistryError(what, { code: 'overloaded' });
  }

  #failure(cause: Error): RegistryError {
    const { request } = this.#init;
    const what = `${request.method} ${safeUrl(request.url)}`;
    if (isNotHttp(cause)) {
      return protocolError('not-http', `${what}: the answer is not HTTP`, cause);
    }
    if (this.#answer !== undefined) {
      return protocolError('cut-body', `${what}: the connection broke within the body`, cause);
    }
    if (cause instanceof ForbiddenAddressError) {
      return protocolError('forbidden-address', `${what}: ${cause.message}`, cause);
    }
    const tls = tlsTroubleOf(cause);
    const { tlsHints = TLS_HINTS } = this.#init;
    const advice = tls === undefined ? '' : `; ${tlsHints[tls]}`;
    const reason =
      tls === 'plain-http' ? `${request.url.host} answers without TLS` : reasonText(cause);
    const detail = { code: 'unavailable', ...(tls && { tls }) } as const;
    return new RegistryError(`${what}: no answer: ${reason}${advice}`, detail, { cause });
  }
}

/** Whether the answer cannot be read as HTTP, or has two lengths. */
function isNotHttp(error: Error): boolean {
  return (
    error instanceof errors.HTTPParserError ||
    error instanceof errors.ResponseContentLengthMismatchError
  );
}

/** Errors of connecting to several addresses have their texts inside. */
function reasonText(error: Error): string {
  if (error instanceof AggregateError) return error.errors.map(errorText).join('; ');
  return error.message === '' ? String((error as { code?: unknown }).code) : error.message;
}

/** The status as the metrics know it. */
function statusLabel(status: number): string {
  return status === 401 || status === 429 ? String(status) : `${Math.floor(status / 100)}xx`;
}
