import type { Clock } from '../../runtime/clock.ts';
import { within } from '../../runtime/deadline.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { ExpiringMap } from '../../util/expiring-map.ts';
import type { Challenge } from './challenge.ts';
import { protocolError, RegistryError } from '../errors.ts';
import type { HttpSender } from '../http/http.ts';
import { PLAIN_RULE } from '../http/location.ts';
import { safeUrl } from '../http/message.ts';
import { orAbort } from '../../util/or-abort.ts';
import { fetchToken, type Bearer, type Token } from './token.ts';

/** A user of a registry. */
export interface UserCredentials {
  readonly username: string;
  readonly password: string;
}

/**
 * What a login left instead of a password: the token server gives tokens for it (OAuth 2, a refresh
 * token).
 */
interface IdentityToken {
  readonly identityToken: string;
}

/** A token that is sent to the registry as it is. */
interface RegistryToken {
  readonly registryToken: string;
}

/** What identifies us to a registry. Never logged. */
export type Credentials = UserCredentials | IdentityToken | RegistryToken;

/**
 * The best credentials for a repository of a registry that are not among the refused ones. Asked
 * again whenever the registry wants to know, so that a file may change under a running agent.
 * Undefined: there are none, or no others.
 */
export type CredentialsSource = (
  repository: string,
  refused: readonly Credentials[],
) => Promise<Credentials | undefined>;

/** Whether the list has credentials of the same content. */
export function isAmong(credentials: Credentials, list: readonly Credentials[]): boolean {
  const text = JSON.stringify(credentials);
  return list.some((each) => JSON.stringify(each) === text);
}

/** Scopes (repository and actions) whose tokens or Basic lines are kept; the oldest goes first. */
const SCOPES_MAX = 1024;

/** Milliseconds for one token request, retries included. */
const TOKEN_MS_MAX = 10_000;

/**
 * A scope that opens to none of the credentials is not asked about again for this long, unless
 * there are others by then. (tunable)
 */
const REFUSED_MS = 5_000;

/** A registry that gave something in a scope refuses one thing there, not the scope. (tunable) */
const OPENED_MS = 300_000;

/** Credentials that are tried for one request. */
const TRIED_MAX = 16;

/** A token, and the credentials that it was given for. */
interface OwnToken extends Token {
  readonly owner: Credentials | undefined;
  /** What was tried before these. */
  readonly refused: readonly Credentials[];
}

interface Granted {
  readonly bearer: Bearer;
  /** Shared by all requests that need it at the same time. */
  readonly token: Promise<OwnToken>;
  /** Whether a token was any use: when it is refused after that, it has only ended early. */
  accepted: boolean;
}

interface BasicLine {
  readonly header: string;
  readonly owner: Credentials;
  readonly refused: readonly Credentials[];
}

/** Nothing that was tried opens a scope. */
interface Refused {
  readonly error: RegistryError;
  readonly tried: readonly Credentials[];
  /** What a GET in the scope is told. */
  readonly answer?: RegistryError;
}

interface AuthorizerComponents {
  readonly clock: Clock;
  readonly http: HttpSender;
}

/**
 * Chooses the Authorization header for one registry: nothing, a Basic line, or a Bearer token for
 * each scope. Starts with nothing and learns from the challenges (401) of the registry. Of several
 * credentials those that it accepts are kept.
 */
export class Authorizer {
  readonly #components: AuthorizerComponents;
  readonly #clock: Clock;
  readonly #server: URL;
  readonly #credentials: CredentialsSource;
  readonly #hint: string | undefined;
  readonly #granted = new BoundedMap<string, Granted>({ entriesMax: SCOPES_MAX });
  readonly #basic = new BoundedMap<string, BasicLine>({ entriesMax: SCOPES_MAX });
  readonly #refused: ExpiringMap<Refused>;
  /** Scopes in which something was not refused: a refusal there is of one blob. */
  readonly #opened: ExpiringMap<true>;

  constructor(
    components: AuthorizerComponents,
    init: { server: URL; credentials: CredentialsSource; hint?: string | undefined },
  ) {
    this.#components = components;
    this.#clock = components.clock;
    this.#server = init.server;
    this.#credentials = init.credentials;
    this.#hint = init.hint;
    this.#refused = new ExpiringMap(components, { entriesMax: SCOPES_MAX });
    this.#opened = new ExpiringMap(components, { entriesMax: SCOPES_MAX });
  }

  /**
   * What a GET in the scope was refused with, where that is the answer for now: to anybody, and to
   * all credentials that there are.
   */
  async refusal(scope: string): Promise<RegistryError | undefined> {
    return (await this.#refusedAs(scope))?.answer;
  }

  /** A GET in the scope is told this, after `learn()` found nothing better. */
  told(scope: string, answer: RegistryError): void {
    const refused = this.#refused.get(scope);
    if (refused === undefined || this.#opened.get(scope) === true) return;
    this.#refused.set(scope, { ...refused, answer }, REFUSED_MS);
  }

  async #refusedAs(scope: string): Promise<Refused | undefined> {
    const refused = this.#refused.get(scope);
    if (refused === undefined) return undefined;
    return (await this.#next(scope, refused.tried)) === undefined ? refused : undefined;
  }

  #refuse(scope: string, tried: readonly Credentials[], sent: string | undefined): RegistryError {
    const error = this.unauthorized(sent);
    this.#refused.set(scope, { error, tried }, REFUSED_MS);
    return error;
  }

  /**
   * The header's value for a request in this scope (`repository:NAME:ACTIONS`); undefined when none
   * is known to be needed.
   */
  async header(scope: string, signal: AbortSignal): Promise<string | undefined> {
    const granted = this.#granted.get(scope);
    if (granted === undefined) return this.#basic.get(scope)?.header;
    let token = await orAbort(granted.token, signal);
    if (this.#clock.nowMs() >= token.renewAtMs) {
      // Another one may have begun the renewal while this one waited.
      const current = this.#granted.get(scope) ?? granted;
      const renewing =
        current === granted ? this.#grant(scope, granted.bearer, token.refused) : current;
      token = await orAbort(renewing.token, signal);
    }
    return `Bearer ${token.value}`;
  }

  /**
   * Takes in a refusal, so that `header()` next gives something better than `refused`, the value
   * that was sent. Throws RegistryError when there is nothing better.
   */
  async learn(
    challenges: readonly Challenge[],
    scope: string,
    refused: string | undefined,
    signal: AbortSignal,
  ): Promise<void> {
    const known = await this.header(scope, signal).catch(() => undefined);
    if (known !== undefined && known !== refused) return;
    const closed = await this.#refusedAs(scope);
    if (closed !== undefined) throw closed.error;
    const bearer = challenges.find(({ scheme }) => scheme === 'bearer');
    if (bearer !== undefined) {
      const before = this.#granted.get(scope);
      const tried = before === undefined ? [] : await triedBy(before);
      // A new token, given to nobody in particular, was of no use.
      if (before?.accepted === false && tried.length === 0) throw this.unauthorized(refused);
      const granted = this.#grant(scope, this.#readBearer(bearer, scope), tried);
      await orAbort(granted.token, signal);
      return;
    }
    if (!challenges.some(({ scheme }) => scheme === 'basic')) {
      const what = `${this.#server.host} answered 401 without a Basic or Bearer challenge`;
      throw protocolError('bad-challenge', what);
    }
    const before = this.#basic.get(scope);
    this.#basic.delete(scope);
    const tried = before === undefined ? [] : [...before.refused, before.owner];
    for (;;) {
      const owner = await this.#next(scope, tried);
      if (owner === undefined) throw this.#refuse(scope, tried, before?.header);
      if (isUser(owner)) {
        return this.#basic.set(scope, { header: basicHeader(owner), owner, refused: tried });
      }
      tried.push(owner);
    }
  }

  /** Whether there are any to try for the scope. */
  async hasCredentials(scope: string): Promise<boolean> {
    return (await this.#next(scope, [])) !== undefined;
  }

  /** The registry did not refuse what `header()` gave for the scope. */
  accepted(scope: string): void {
    this.#opened.set(scope, true, OPENED_MS);
    const granted = this.#granted.get(scope);
    if (granted !== undefined) granted.accepted = true;
  }

  /** For a request that is refused with the best that there is: `sent`. */
  unauthorized(sent: string | undefined): RegistryError {
    const { host } = this.#server;
    const hint = this.#hint;
    const what =
      sent === undefined
        ? `${host} wants credentials, and none are given: ` +
          (hint ??
            'name a file in ' +
              'registries[].credentialsFile, credentials.dockerConfigs or credentials.pullSecrets')
        : `${host} refuses the credentials: ` +
          (hint ?? 'check registries[].credentialsFile, or the files in credentials');
    return new RegistryError(what, { code: 'unauthorized', status: 401 });
  }

  /** Credentials that were not tried yet. */
  async #next(scope: string, tried: readonly Credentials[]): Promise<Credentials | undefined> {
    if (tried.length >= TRIED_MAX) return undefined;
    const found = await this.#credentials(repositoryOf(scope), tried);
    return found === undefined || isAmong(found, tried) ? undefined : found;
  }

  #grant(scope: string, bearer: Bearer, refused: readonly Credentials[]): Granted {
    const token = this.#fetch(scope, bearer, refused);
    const granted = { bearer, token, accepted: false };
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
      (realm?.protocol === 'http:' &&
        (this.#server.protocol === 'http:' || this.#components.http.mayBePlain(realm)));
    if (realm === undefined || !isAllowed || realm.username !== '' || realm.password !== '') {
      const found = realm === undefined ? 'no URL' : safeUrl(realm);
      const rule = `it must be an https URL (${PLAIN_RULE})`;
      const what = `${this.#server.host} names ${found} as its token server: ${rule}`;
      throw protocolError('bad-challenge', what);
    }
    return { realm, service: parameters.get('service'), scope: parameters.get('scope') ?? scope };
  }

  /** Has a deadline of its own and no caller's signal: others may wait for it too. */
  #fetch(scope: string, bearer: Bearer, refused: readonly Credentials[]): Promise<OwnToken> {
    const tried = [...refused];
    const fetch = async (signal: AbortSignal): Promise<OwnToken> => {
      for (;;) {
        const owner = await orAbort(this.#next(scope, tried), signal);
        if (owner === undefined && tried.length > 0) {
          throw this.#refuse(scope, tried, 'those tried');
        }
        const token = await this.#ask(bearer, owner, signal);
        if (token !== undefined) return { ...token, owner, refused: tried };
        if (owner === undefined) throw this.#refuse(scope, tried, undefined);
        tried.push(owner);
      }
    };
    const what = `${safeUrl(bearer.realm)} gave no token within ${TOKEN_MS_MAX} ms`;
    const reason = (): Error =>
      new RegistryError(what, { code: 'timeout', timeoutMs: TOKEN_MS_MAX });
    return within(this.#clock, TOKEN_MS_MAX, fetch, { reason });
  }

  /** Undefined when the token server refuses the credentials. */
  async #ask(
    bearer: Bearer,
    owner: Credentials | undefined,
    signal: AbortSignal,
  ): Promise<Token | undefined> {
    if (owner !== undefined && 'registryToken' in owner) {
      return { value: owner.registryToken, renewAtMs: Number.POSITIVE_INFINITY };
    }
    const proof = isUser(owner)
      ? ({ kind: 'basic', header: basicHeader(owner) } as const)
      : owner && ({ kind: 'refresh', token: owner.identityToken } as const);
    return fetchToken(this.#components, { bearer, proof }, signal);
  }
}

/**
 * What is not to be tried again after a token was refused: one that had been of use gets its owner
 * another try.
 */
async function triedBy({ token, accepted }: Granted): Promise<readonly Credentials[]> {
  const { owner, refused } = await token.catch(() => ({ owner: undefined, refused: [] }));
  return accepted || owner === undefined ? refused : [...refused, owner];
}

/** A scope is `repository:NAME:ACTIONS`; no name has a colon. */
function repositoryOf(scope: string): string {
  return scope.split(':')[1] ?? '';
}

function isUser(credentials: Credentials | undefined): credentials is UserCredentials {
  return credentials !== undefined && 'password' in credentials;
}

function basicHeader({ username, password }: UserCredentials): string {
  return `Basic ${Buffer.from(`${username}:${password}`, 'utf8').toString('base64')}`;
}
