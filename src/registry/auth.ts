import type { Clock } from '../runtime/clock.ts';
import type { Challenge } from './challenge.ts';
import { protocolError, RegistryError } from './errors.ts';
import { safeUrl, type HttpSender } from './http.ts';
import { fetchToken, type Bearer, type Token } from './token.ts';

/** A user of a registry. Never logged. */
export interface Credentials {
  readonly username: string;
  readonly password: string;
}

/** Asked again whenever a registry wants to know, so that a file may change under a running agent. Undefined: anonymous. */
export type CredentialsSource = () => Promise<Credentials | undefined>;

/** Scopes (repository and actions) whose tokens are kept; the oldest goes first. */
const SCOPES_MAX = 1024;

/** One token request, all in all. */
const TOKEN_MS_MAX = 10_000;

interface Granted {
  readonly bearer: Bearer;
  /** Shared by all who need it at the same time. */
  readonly token: Promise<Token>;
}

interface AuthorizerComponents {
  readonly clock: Clock;
  readonly http: HttpSender;
}

/**
 * Knows what to say in the Authorization header of one registry: nothing, a Basic line, or a Bearer token for each scope.
 * Starts with nothing and learns from the challenges (401) of the registry.
 */
export class Authorizer {
  readonly #components: AuthorizerComponents;
  readonly #clock: Clock;
  readonly #server: URL;
  readonly #credentials: CredentialsSource;
  readonly #granted = new Map<string, Granted>();
  #basic: string | undefined;

  constructor(
    components: AuthorizerComponents,
    init: { server: URL; credentials: CredentialsSource },
  ) {
    this.#components = components;
    this.#clock = components.clock;
    this.#server = init.server;
    this.#credentials = init.credentials;
  }

  /** The header's value for a request in this scope (`repository:NAME:ACTIONS`); undefined when none is known to be needed. */
  async header(scope: string, signal: AbortSignal): Promise<string | undefined> {
    const granted = this.#granted.get(scope);
    if (granted === undefined) return this.#basic;
    let token = await withSignal(granted.token, signal);
    if (this.#clock.nowMs() >= token.renewAtMs) {
      // Another one may have begun the renewal while this one waited.
      const current = this.#granted.get(scope) ?? granted;
      const renewing = current === granted ? this.#grant(scope, granted.bearer) : current;
      token = await withSignal(renewing.token, signal);
    }
    return `Bearer ${token.value}`;
  }

  /**
   * Takes in a refusal, so that `header()` next gives something better than `refused`, the value that was sent.
   * Throws RegistryError when there is nothing better.
   */
  async learn(
    challenges: readonly Challenge[],
    scope: string,
    refused: string | undefined,
    signal: AbortSignal,
  ): Promise<void> {
    const known = await this.header(scope, signal).catch(() => undefined);
    if (known !== undefined && known !== refused) return;
    const bearer = challenges.find(({ scheme }) => scheme === 'bearer');
    if (bearer !== undefined) {
      await withSignal(this.#grant(scope, this.#readBearer(bearer, scope)).token, signal);
      return;
    }
    if (!challenges.some(({ scheme }) => scheme === 'basic')) {
      const what = `${this.#server.host} answered 401 without a Basic or Bearer challenge`;
      throw protocolError('bad-challenge', what);
    }
    const basic = basicHeader(await this.#credentials());
    if (basic === undefined || basic === refused) throw this.unauthorized(basic);
    this.#basic = basic;
  }

  /** For a request that is refused with the best that there is: `sent`. */
  unauthorized(sent: string | undefined): RegistryError {
    const { host } = this.#server;
    const what =
      sent === undefined
        ? `${host} wants credentials, and none are given: name a file in registries[].credentialsFile`
        : `${host} refuses the credentials: check the file in registries[].credentialsFile`;
    return new RegistryError(what, { code: 'unauthorized', status: 401 });
  }

  #grant(scope: string, bearer: Bearer): Granted {
    const [oldest] = this.#granted.keys();
    if (this.#granted.size >= SCOPES_MAX && oldest !== undefined) this.#granted.delete(oldest);
    const granted = { bearer, token: this.#fetch(bearer) };
    this.#granted.set(scope, granted);
    granted.token.catch(() => {
      if (this.#granted.get(scope) === granted) this.#granted.delete(scope);
    });
    return granted;
  }

  #readBearer({ parameters }: Challenge, scope: string): Bearer {
    const text = parameters.get('realm') ?? '';
    const realm = URL.canParse(text) ? new URL(text) : undefined;
    const isAllowed =
      realm?.protocol === 'https:' ||
      (realm?.protocol === 'http:' && this.#server.protocol === 'http:');
    if (realm === undefined || !isAllowed || realm.username !== '' || realm.password !== '') {
      const found = realm === undefined ? 'no URL' : safeUrl(realm);
      const rule = 'it must be an https URL (http only for a registry marked insecure)';
      const what = `${this.#server.host} names ${found} as its token server: ${rule}`;
      throw protocolError('bad-challenge', what);
    }
    return { realm, service: parameters.get('service'), scope: parameters.get('scope') ?? scope };
  }

  /** Has a deadline of its own and no caller's signal: others may wait for it too. */
  async #fetch(bearer: Bearer): Promise<Token> {
    const limit = new AbortController();
    const timer = this.#clock.setTimer(TOKEN_MS_MAX, () => {
      const what = `${safeUrl(bearer.realm)} gave no token within ${TOKEN_MS_MAX} ms`;
      limit.abort(new RegistryError(what, { code: 'timeout', timeoutMs: TOKEN_MS_MAX }));
    });
    try {
      const basic = basicHeader(await this.#credentials());
      const token = await fetchToken(this.#components, { bearer, basic }, limit.signal);
      if (token === undefined) throw this.unauthorized(basic);
      return token;
    } finally {
      timer.cancel();
    }
  }
}

function basicHeader(credentials: Credentials | undefined): string | undefined {
  if (credentials === undefined) return undefined;
  const text = `${credentials.username}:${credentials.password}`;
  return `Basic ${Buffer.from(text, 'utf8').toString('base64')}`;
}

/** The promise's result, or the signal's reason when that comes first. */
function withSignal<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  if (signal.aborted) return Promise.reject(signal.reason as Error);
  const { promise: result, resolve, reject } = Promise.withResolvers<T>();
  const onAbort = (): void => reject(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  void promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  return result;
}
