import type { Clock } from '../../runtime/clock.ts';
import { protocolError } from '../errors.ts';
import type { HttpSender } from '../http/http.ts';
import { follow, type Hop } from '../http/follow.ts';
import { safeUrl, type HttpAnswer, type HttpRequest } from '../http/message.ts';
import { CollectingSink } from '../http/sinks.ts';
import { statusError } from '../http/status.ts';

/**
 * Tokens of the big registries have 1 to 6 KiB; servers refuse headers of more than 8 or 16 KiB.
 */
const TOKEN_ANSWER_BYTES_MAX = 64 * 1024;
const TOKEN_LENGTH_MAX = 16 * 1024;

/**
 * Life of a token whose answer names none (distribution's token specification), and the longest
 * life that is believed.
 */
const TOKEN_LIFE_SECONDS = 60;
const TOKEN_LIFE_SECONDS_MAX = 24 * 3600;

/**
 * A token is renewed this long before its end, or after three quarters of its life when that is
 * later. (tunable)
 */
const RENEW_MS_BEFORE = 15_000;

/** Scopes that one challenge may name; real ones name one or two. */
const SCOPES_MAX = 8;

/** What a registry said about getting tokens. */
export interface Bearer {
  readonly realm: URL;
  readonly service: string | undefined;
  /** One or several, with spaces between. */
  readonly scope: string;
}

/** A bearer token, and when to ask for another. */
export interface Token {
  readonly value: string;
  /** Of the clock. */
  readonly renewAtMs: number;
}

/**
 * What tells a token server who asks: a user's Basic line (GET), or a refresh token (POST, OAuth
 * 2). Undefined: anonymous.
 */
type Proof =
  | { readonly kind: 'basic'; readonly header: string }
  | { readonly kind: 'refresh'; readonly token: string }
  | undefined;

/**
 * Asks a token server (distribution's token specification; its OAuth 2 page for a refresh token);
 * undefined when it refuses the credentials, or wants some. A GET is followed within the host of
 * the token server and to HTTPS; credentials go to the server that the registry named and nowhere
 * else.
 */
export async function fetchToken(
  { clock, http }: { readonly clock: Clock; readonly http: HttpSender },
  { bearer, proof }: { readonly bearer: Bearer; readonly proof: Proof },
  signal: AbortSignal,
): Promise<Token | undefined> {
  const what = `the answer of the token server ${safeUrl(bearer.realm)}`;
  const request = proof?.kind === 'refresh' ? refresh(bearer, proof.token) : ask(bearer, proof);
  const { authorization: _, ...others } = request.headers;
  const mayBePlain = (url: URL): boolean => http.mayBePlain(url);
  const sendTo = ({ url, isServer }: Hop): Promise<HttpAnswer<CollectingSink>> => {
    const isNear = url.protocol === 'https:' || url.host === bearer.realm.host || mayBePlain(url);
    if (!isNear) {
      const to = safeUrl(url);
      throw protocolError('bad-location', `${what} leads to ${to}: another host without TLS`);
    }
    return http.send(
      { ...request, url, headers: isServer ? request.headers : others, isQuestion: true },
      () => new CollectingSink({ what, sizeBytesMax: TOKEN_ANSWER_BYTES_MAX }),
      signal,
    );
  };
  const { answer } = await follow(request, sendTo, mayBePlain);
  const { head, sink } = answer;
  const text = new TextDecoder().decode(sink.bytes());
  // RFC 6749, section 5.2: a refresh token that is not valid is answered with 400 `invalid_grant`.
  const isRefused = head.status === 401 || (proof?.kind === 'refresh' && head.status === 400);
  if (isRefused) return undefined;
  if (head.status !== 200) throw statusError({ head, what, text, wallMs: clock.wallMs() });
  const { value, lifeMs } = readToken(text, what);
  return {
    value,
    renewAtMs: clock.nowMs() + Math.max(lifeMs - RENEW_MS_BEFORE, (lifeMs * 3) / 4),
  };
}

function ask(bearer: Bearer, basic: { readonly header: string } | undefined): HttpRequest {
  const url = new URL(bearer.realm);
  if (bearer.service !== undefined) url.searchParams.set('service', bearer.service);
  for (const scope of scopesOf(bearer)) url.searchParams.append('scope', scope);
  const headers = basic === undefined ? {} : { authorization: basic.header };
  return { method: 'GET', url, headers };
}

function refresh(bearer: Bearer, token: string): HttpRequest {
  const form = new URLSearchParams({
    grant_type: 'refresh_token',
    client_id: 'xylem',
    refresh_token: token,
    ...(bearer.service !== undefined && { service: bearer.service }),
    scope: scopesOf(bearer).join(' '),
  });
  const headers = { 'content-type': 'application/x-www-form-urlencoded' };
  return { method: 'POST', url: bearer.realm, headers, body: Buffer.from(form.toString()) };
}

function scopesOf(bearer: Bearer): readonly string[] {
  return bearer.scope
    .split(' ')
    .filter((scope) => scope !== '')
    .slice(0, SCOPES_MAX);
}

function readToken(text: string, what: string): { value: string; lifeMs: number } {
  let answer: Record<string, unknown>;
  try {
    answer = Object(JSON.parse(text)) as Record<string, unknown>;
  } catch {
    // The parser's words quote the text, which may hold a token.
    throw protocolError('bad-token', `${what} is not JSON`);
  }
  // Servers that give one of the two may send the other empty.
  const named = [answer['token'], answer['access_token']];
  const value = named.find((each) => typeof each === 'string' && each !== '');
  if (typeof value !== 'string' || value.length > TOKEN_LENGTH_MAX || !/^[!-~]+$/.test(value)) {
    const rule = `1 to ${TOKEN_LENGTH_MAX} visible characters`;
    throw protocolError('bad-token', `${what} holds no token that can be sent: ${rule}`);
  }
  const life = answer['expires_in'];
  const lifeSeconds = typeof life === 'number' && life > 0 ? life : TOKEN_LIFE_SECONDS;
  return { value, lifeMs: Math.min(lifeSeconds, TOKEN_LIFE_SECONDS_MAX) * 1000 };
}
