import type { Digest } from '../image/digest.ts';
import type { Clock } from '../runtime/clock.ts';
import { ExpiringMap } from '../util/expiring-map.ts';
import { Authorizer, type CredentialsSource } from './auth/auth.ts';
import { parseChallenges } from './auth/challenge.ts';
import { protocolError, RegistryError } from './errors.ts';
import {
  safeUrl,
  type BodySink,
  type HttpAnswer,
  type HttpBody,
  type HttpHead,
  type HttpSender,
} from './http/http.ts';
import { readLocation } from './http/location.ts';
import type { RegistryMetrics } from './metrics.ts';
import { Pacer } from './http/pacer.ts';
import { ExcerptSink } from './http/sinks.ts';
import { statusError } from './http/status.ts';

/** Clients of the field follow 5 to 20; registries need one or two. */
const REDIRECTS_MAX = 5;

/** Of the body of an answer that is no success; its first part may say what is wrong. */
const EXCERPT_BYTES_MAX = 4096;

/**
 * Where storage keeps a blob is asked of the registry again after this long: signed URLs live for minutes. (tunable)
 * In between each range costs one request instead of two.
 */
const LOCATION_MS_MAX = 60_000;
const LOCATIONS_MAX = 1024;

export interface ServerRequest<S> {
  readonly method: 'GET' | 'HEAD' | 'POST' | 'PUT';
  /** Relative to the server, or (of an upload) absolute. */
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  /** `repository:NAME:ACTIONS` */
  readonly scope: string;
  /** Called for each time that the request is sent. */
  readonly body?: (() => HttpBody) | undefined;
  /** Of the blob that is read: its redirection is remembered. */
  readonly blob?: Digest | undefined;
  /** Called for a success (2xx). */
  readonly open: (head: HttpHead) => S;
}

interface Hop<S> {
  readonly answer: HttpAnswer<S | ExcerptSink>;
  /** What answered. */
  readonly url: URL;
  /** Every hop so far was the registry itself. */
  readonly isServer: boolean;
}

interface ServerComponents {
  readonly clock: Clock;
  readonly http: HttpSender;
  readonly metrics: RegistryMetrics;
}

/** Answers 401 to one request: two to each of several credentials, when their tokens end early. */
const TRIES_MAX = 32;

interface ServerInit {
  readonly base: URL;
  readonly credentials: CredentialsSource;
  /** Of a mirror: the registry that it stands for, which it is told as containerd does (`?ns=`). */
  readonly namespace?: string;
  readonly requestsPerSecond?: number;
}

/** One server that speaks the distribution API: answers its challenges, follows its redirects. */
export class RegistryServer {
  readonly base: URL;
  readonly #clock: Clock;
  readonly #http: HttpSender;
  readonly #authorizer: Authorizer;
  readonly #namespace: string | undefined;
  readonly #pacer: Pacer;
  /** Redirections of blobs, by path. */
  readonly #locations: ExpiringMap<URL>;

  constructor(components: ServerComponents, init: ServerInit) {
    this.base = init.base;
    this.#namespace = init.namespace;
    this.#clock = components.clock;
    this.#http = components.http;
    this.#locations = new ExpiringMap(components, { entriesMax: LOCATIONS_MAX });
    this.#pacer = new Pacer(components, {
      host: init.base.host,
      requestsPerSecond: init.requestsPerSecond,
    });
    this.#authorizer = new Authorizer(components, {
      server: init.base,
      credentials: init.credentials,
    });
  }

  /** Sends the request; resolves for a success alone. Rejects with RegistryError or the signal's reason. */
  async request<S extends BodySink>(
    request: ServerRequest<S>,
    signal: AbortSignal,
  ): Promise<HttpAnswer<S>> {
    const short = await this.#requestKnown(request, signal);
    if (short !== undefined) return short;
    const { scope } = request;
    let authorization = await this.#authorizer.header(scope, signal);
    let hop = await this.#follow(request, authorization, signal);
    for (let tries = 0; hop.answer.head.status === 401 && hop.isServer; tries++) {
      const challenge = hop.answer.head.headers['www-authenticate'];
      try {
        if (tries >= TRIES_MAX) throw this.#authorizer.unauthorized(authorization);
        await this.#authorizer.learn(parseChallenges(challenge), scope, authorization, signal);
        authorization = await this.#authorizer.header(scope, signal);
      } catch (error) {
        throw withChallenge(error, challenge);
      }
      hop = await this.#follow(request, authorization, signal);
    }
    if (hop.isServer) this.#authorizer.accepted(scope);
    const answer = this.#successOf(hop, request);
    if (request.blob !== undefined && !hop.isServer) {
      this.#locations.set(request.path, hop.url, LOCATION_MS_MAX);
    }
    return answer;
  }

  /** Asks where the blob was last time; undefined when that is not known or refuses now. */
  async #requestKnown<S extends BodySink>(
    request: ServerRequest<S>,
    signal: AbortSignal,
  ): Promise<HttpAnswer<S> | undefined> {
    if (request.blob === undefined) return undefined;
    const url = this.#locations.get(request.path);
    if (url === undefined) return undefined;
    try {
      const answer = await this.#send(request, url, undefined, signal);
      return this.#successOf({ answer, url, isServer: false }, request);
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof RegistryError)) throw error;
      // Signed for too short a time, or gone: the registry knows better. Other failures may be of the registry's storage too.
      this.#locations.delete(request.path);
      return undefined;
    }
  }

  /** Credentials go to the registry alone, by scheme, host and port, and not after a redirection led away from it. */
  async #follow<S extends BodySink>(
    request: ServerRequest<S>,
    authorization: string | undefined,
    signal: AbortSignal,
  ): Promise<Hop<S>> {
    let url = new URL(request.path, this.base);
    if (this.#namespace !== undefined) url.searchParams.set('ns', this.#namespace);
    let isServer = url.origin === this.base.origin;
    for (let redirects = 0; redirects <= REDIRECTS_MAX; redirects++) {
      const answer = await this.#send(request, url, isServer ? authorization : undefined, signal);
      if (!isRedirection(request.method, answer.head.status)) return { answer, url, isServer };
      url = readLocation(answer.head, url);
      isServer &&= url.origin === this.base.origin;
    }
    throw protocolError(
      'too-many-redirects',
      `${request.method} ${request.path} at ${this.base.host}: more than ${REDIRECTS_MAX} redirections`,
    );
  }

  async #send<S extends BodySink>(
    request: ServerRequest<S>,
    url: URL,
    authorization: string | undefined,
    signal: AbortSignal,
  ): Promise<HttpAnswer<S | ExcerptSink>> {
    // Storage that the registry leads to is not asked in its name.
    if (url.origin === this.base.origin) await this.#pacer.turn(signal);
    const { method } = request;
    const body = request.body?.();
    const headers =
      authorization === undefined ? request.headers : { ...request.headers, authorization };
    return this.#http.send<S | ExcerptSink>(
      { method, url, headers, body },
      (head) =>
        isSuccess(head.status)
          ? request.open(head)
          : new ExcerptSink({ sizeBytesMax: EXCERPT_BYTES_MAX }),
      signal,
    );
  }

  #successOf<S extends BodySink>({ answer, url, isServer }: Hop<S>, request: ServerRequest<S>) {
    const { head, sink } = answer;
    if (isSuccess(head.status)) return { head, sink: sink as S };
    const text = sink instanceof ExcerptSink ? sink.text() : '';
    const what = `${request.method} ${safeUrl(url)}`;
    const error = statusError({ head, what, text, wallMs: this.#clock.wallMs() });
    if (isServer && 'retryAfterMs' in error.detail && error.detail.retryAfterMs !== undefined) {
      this.#pacer.pause(error.detail.retryAfterMs);
    }
    throw error;
  }
}

function isSuccess(status: number): boolean {
  return status >= 200 && status < 300;
}

/** Of what is written, nothing is sent on to elsewhere. */
function isRedirection(method: string, status: number): boolean {
  return (method === 'GET' || method === 'HEAD') && [301, 302, 303, 307, 308].includes(status);
}

/**
 * Why there is no token, with what the server asked for: a client with credentials of its own can answer it. A token server that has no
 * such page, or denies one, says nothing about the blob.
 */
function withChallenge(error: unknown, header: string | readonly string[] | undefined): unknown {
  if (!(error instanceof RegistryError)) return error;
  const { code } = error.detail;
  if (code !== 'unauthorized' && code !== 'denied' && code !== 'not-found') return error;
  const challenge = header === undefined ? undefined : [header].flat().join(', ');
  const options = { cause: error.cause };
  const detail = { code: 'unauthorized', status: 401, challenge } as const;
  return new RegistryError(error.message, detail, options);
}
