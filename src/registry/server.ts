import type { Digest } from '../image/digest.ts';
import type { Clock } from '../runtime/clock.ts';
import { ExpiringMap } from '../util/expiring-map.ts';
import { orAbort } from '../util/or-abort.ts';
import { Authorizer, type CredentialsSource } from './auth/auth.ts';
import { parseChallenges } from './auth/challenge.ts';
import { protocolError, RegistryError, type ProtocolFault } from './errors.ts';
import { EXCERPT_BYTES_MAX, follow, type Hop } from './http/follow.ts';
import type { HttpSender } from './http/http.ts';
import {
  safeUrl,
  type BodySink,
  type Flow,
  type HttpAnswer,
  type HttpBody,
  type HttpHead,
  type HttpRequest,
} from './http/message.ts';
import { ExcerptSink } from './http/sinks.ts';
import { statusError } from './http/status.ts';
import { API_ROOT, nameWithin, pingPath } from './mirror-url.ts';

/**
 * Where storage keeps a blob is asked of the registry again after this long: signed URLs live for
 * minutes. (tunable) In between each range costs one request instead of two.
 */
const LOCATION_MS_MAX = 60_000;
const LOCATIONS_MAX = 1024;

/**
 * A registry that does not challenge at `/v2/` is not asked there again for this long. (tunable)
 */
const OPEN_MS = 300_000;

/** Registries that lead to another one; one is usual. */
const LED_BY_MAX = 2;

/** What is read of a repository: its name is the first group. */
const API_PATH = /^\/v2\/(.+)\/(?:blobs|manifests)\/[^/?]+(?:\?|$)/;

/** How what is meant for people looks to a client. */
const HIDING_FAULTS: ReadonlySet<ProtocolFault> = new Set<ProtocolFault>([
  'bad-challenge',
  'bad-location',
  'no-manifest',
  'no-size',
  'page',
  'too-many-redirects',
]);

/** A request to a registry, before its credentials. */
export interface ServerRequest<S> {
  readonly method: HttpRequest['method'];
  /** Relative to the server, or (of an upload) absolute. */
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  /** `repository:NAME:ACTIONS` */
  readonly scope: string;
  /** Called for each time that the request is sent. */
  readonly body?: (() => HttpBody) | undefined;
  /** Of the blob that is read: its redirection is remembered. */
  readonly blob?: Digest | undefined;
  /** The caller bounds the wait for the head of the answer, however silent the server is. */
  readonly isPatient?: boolean | undefined;
  /** Silence that is waited for; 10 s when absent. */
  readonly silenceMs?: number | undefined;
  /** About what somebody named: see `Lane` in http/pacer.ts. */
  readonly isQuestion?: boolean | undefined;
  /** Registries that led to this one. */
  readonly ledBy?: number | undefined;
  /** Statuses that are an answer to this request, beside all 2xx. */
  readonly answers?: readonly number[] | undefined;
  /** Called for a success. `isServer`: it is the server's own, not that of what it led to. */
  readonly open: (head: HttpHead, isServer: boolean, flow: Flow) => S;
}

/** The last answer, and where it came from. */
interface Answered<S> extends Hop {
  readonly answer: HttpAnswer<S | ExcerptSink>;
}

interface ServerComponents {
  readonly clock: Clock;
  readonly http: HttpSender;
}

/** Answers 401 to one request: two to each of several credentials, when their tokens end early. */
const TRIES_MAX = 32;

interface ServerInit {
  readonly base: URL;
  readonly credentials: CredentialsSource;
  /** What to do when they are missing or refused; the keys of the configuration when absent. */
  readonly hint?: string | undefined;
  /** Where its API begins, when that is not `/v2`: see `apiRoots()`. */
  readonly root?: string | undefined;
  /** Of a mirror: the registry that it stands for, which it is told as containerd does (`?ns=`). */
  readonly namespace?: string;
  /** The registry at a URL that this one led to; undefined for what is no registry. */
  readonly ledTo?: (url: URL) => RegistryServer | undefined;
}

/** One server that speaks the distribution API: answers its challenges, follows its redirects. */
export class RegistryServer {
  readonly base: URL;
  readonly #clock: Clock;
  readonly #http: HttpSender;
  readonly #authorizer: Authorizer;
  readonly #namespace: string | undefined;
  readonly #ledTo: (url: URL) => RegistryServer | undefined;
  readonly #root: string;
  /** Redirections of blobs, by path. */
  readonly #locations: ExpiringMap<URL>;
  /** Paths at other registries that this one leads to, by path. */
  readonly #led: ExpiringMap<{ readonly server: RegistryServer; readonly path: string }>;
  #openUntilMs = 0;

  constructor(components: ServerComponents, init: ServerInit) {
    this.base = init.base;
    this.#namespace = init.namespace;
    this.#ledTo = init.ledTo ?? (() => undefined);
    this.#root = init.root ?? API_ROOT;
    this.#clock = components.clock;
    this.#http = components.http;
    this.#locations = new ExpiringMap(components, { entriesMax: LOCATIONS_MAX });
    this.#led = new ExpiringMap(components, { entriesMax: LOCATIONS_MAX });
    this.#authorizer = new Authorizer(components, {
      server: init.base,
      credentials: init.credentials,
      hint: init.hint,
    });
  }

  /**
   * Sends the request; resolves for a success alone. Rejects with RegistryError or the signal's
   * reason.
   */
  async request<S extends BodySink>(
    request: ServerRequest<S>,
    signal: AbortSignal,
  ): Promise<HttpAnswer<S>> {
    const led = this.#led.get(request.path);
    if (led !== undefined) return led.server.request(atOther(request, led.path), signal);
    const short = await this.#requestKnown(request, signal);
    if (short !== undefined) return short;
    try {
      return await this.#requestAs(request, signal);
    } catch (error) {
      signal.throwIfAborted();
      if (!mayHide(error) || !(await this.#knock(this.#scopeOf(request), signal))) throw error;
    }
    return this.#requestAs(request, signal);
  }

  /**
   * With the best credentials that are known to be wanted, and with better ones for as long as the
   * registry asks for them.
   */
  async #requestAs<S extends BodySink>(
    request: ServerRequest<S>,
    signal: AbortSignal,
  ): Promise<HttpAnswer<S>> {
    const scope = this.#scopeOf(request);
    const refused = await orAbort(this.#authorizer.refusal(scope), signal);
    if (refused !== undefined) throw refused;
    let authorization = await this.#authorizer.header(scope, signal);
    let hop = await this.#follow(request, authorization, signal);
    for (let tries = 0; hop.answer.head.status === 401 && hop.isServer; tries++) {
      const challenge = hop.answer.head.headers['www-authenticate'];
      try {
        if (tries >= TRIES_MAX) throw this.#authorizer.unauthorized(authorization);
        await this.#authorizer.learn(parseChallenges(challenge), scope, authorization, signal);
        authorization = await this.#authorizer.header(scope, signal);
      } catch (error) {
        const told = withChallenge(error, challenge);
        // A HEAD may be refused where a GET is not.
        if (told instanceof RegistryError && request.method === 'GET') {
          this.#authorizer.told(scope, told);
        }
        throw told;
      }
      hop = await this.#follow(request, authorization, signal);
    }
    if (hop.answer.head.status === 401) {
      // A registry that this one leads to: its challenge is met with what there is for it.
      const path = `${hop.url.pathname}${hop.url.search}`;
      const isApi = !hop.isServer && API_PATH.test(path);
      const server = isApi ? this.#ledTo(hop.url) : undefined;
      if (server !== undefined) {
        this.#led.set(request.path, { server, path }, LOCATION_MS_MAX);
        return server.request(atOther(request, path), signal);
      }
    }
    if (hop.isServer) this.#authorizer.accepted(scope);
    const answer = this.#successOf(hop, request);
    if (request.blob !== undefined && !hop.isServer) {
      this.#locations.set(request.path, hop.url, LOCATION_MS_MAX);
    }
    return answer;
  }

  /**
   * Some registries challenge strangers at `/v2/` alone, and elsewhere hide what is private or lead
   * to a page. Where there are credentials that were not shown, asks there how to show them;
   * whether that was learned.
   */
  async #knock(scope: string, signal: AbortSignal): Promise<boolean> {
    if (this.#clock.nowMs() < this.#openUntilMs) return false;
    try {
      if ((await this.#authorizer.header(scope, signal)) !== undefined) return false;
      if (!(await this.#authorizer.hasCredentials(scope))) return false;
      const { head } = await this.#http.send(
        {
          method: 'GET',
          url: new URL(pingPath(this.#root), this.base),
          headers: {},
          isQuestion: true,
        },
        () => new ExcerptSink({ sizeBytesMax: EXCERPT_BYTES_MAX }),
        signal,
      );
      if (head.status !== 401) {
        this.#openUntilMs = this.#clock.nowMs() + OPEN_MS;
        return false;
      }
      const challenges = parseChallenges(head.headers['www-authenticate']);
      await this.#authorizer.learn(challenges, scope, undefined, signal);
      return true;
    } catch {
      signal.throwIfAborted();
      return false;
    }
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
      const hop = { url, isServer: false };
      // The registry is there to be asked instead.
      const impatient = { ...request, isPatient: false };
      const answer = await this.#send(impatient, hop, undefined, signal);
      return this.#successOf({ ...hop, answer }, request);
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof RegistryError)) throw error;
      // Signed for too short a time, or gone: the registry knows better. Other failures may be of
      // the registry's storage too.
      this.#locations.delete(request.path);
      return undefined;
    }
  }

  #urlOf(path: string): URL {
    const isApi = path.startsWith(`${API_ROOT}/`);
    return new URL(isApi ? `${this.#root}${path.slice(API_ROOT.length)}` : path, this.base);
  }

  /** The scope in the names of this server. */
  #scopeOf({ scope }: { readonly scope: string }): string {
    const name = nameWithin(this.#root);
    return name === '' ? scope : scope.replace(/^repository:/, `repository:${name}/`);
  }

  /** Credentials go to the registry alone. */
  async #follow<S extends BodySink>(
    request: ServerRequest<S>,
    authorization: string | undefined,
    signal: AbortSignal,
  ): Promise<Answered<S>> {
    const url = this.#urlOf(request.path);
    if (this.#namespace !== undefined) url.searchParams.set('ns', this.#namespace);
    // An upload may have begun elsewhere.
    const isOwn = url.origin === this.base.origin;
    const sendTo = (hop: Hop): Promise<HttpAnswer<S | ExcerptSink>> => {
      const isServer = isOwn && hop.isServer;
      return this.#send(request, { url: hop.url, isServer }, authorization, signal);
    };
    const mayBePlain = (to: URL): boolean => this.#http.mayBePlain(to);
    const last = await follow({ method: request.method, url }, sendTo, mayBePlain);
    return { ...last, isServer: isOwn && last.isServer };
  }

  #send<S extends BodySink>(
    request: ServerRequest<S>,
    { url, isServer }: Hop,
    authorization: string | undefined,
    signal: AbortSignal,
  ): Promise<HttpAnswer<S | ExcerptSink>> {
    const { method, isPatient, isQuestion, silenceMs } = request;
    const body = request.body?.();
    const isShown = isServer && authorization !== undefined;
    const headers = isShown ? { ...request.headers, authorization } : request.headers;
    return this.#http.send<S | ExcerptSink>(
      { method, url, headers, body, isPatient, isQuestion, silenceMs },
      (head, flow) =>
        isSuccess(request, head.status)
          ? request.open(head, isServer, flow)
          : new ExcerptSink({ sizeBytesMax: EXCERPT_BYTES_MAX }),
      signal,
    );
  }

  #successOf<S extends BodySink>({ answer, url }: Answered<S>, request: ServerRequest<S>) {
    const { head, sink } = answer;
    if (isSuccess(request, head.status)) return { head, sink: sink as S };
    const text = sink instanceof ExcerptSink ? sink.text() : '';
    const what = `${request.method} ${safeUrl(url)}`;
    throw statusError({ head, what, text, wallMs: this.#clock.wallMs() });
  }
}

/** The request at another registry, in the scope of the repository that its path names. */
function atOther<S>(request: ServerRequest<S>, path: string): ServerRequest<S> {
  const [, name = ''] = API_PATH.exec(path) ?? [];
  const { ledBy = 0 } = request;
  if (ledBy === LED_BY_MAX) {
    const what = `${request.method} ${path}: more than ${LED_BY_MAX} registries lead to others`;
    throw protocolError('too-many-redirects', what);
  }
  return { ...request, path, scope: `repository:${name}:pull`, ledBy: ledBy + 1 };
}

/** Whether a stranger may have been refused what somebody with credentials is given. */
function mayHide(error: unknown): boolean {
  if (!(error instanceof RegistryError)) return false;
  const { detail } = error;
  if (detail.code === 'protocol') return HIDING_FAULTS.has(detail.fault);
  return ['denied', 'not-found', 'digest-mismatch'].includes(detail.code);
}

function isSuccess({ answers }: ServerRequest<BodySink>, status: number): boolean {
  return (status >= 200 && status < 300) || answers?.includes(status) === true;
}

/**
 * Why there is no token, with what the server asked for: a client with credentials of its own can
 * answer it. A token server that has no such page, or denies one, says nothing about the blob.
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
