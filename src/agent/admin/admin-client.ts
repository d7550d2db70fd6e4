import { request, type RequestOptions } from 'node:http';
import type { z } from 'zod';
import { errorText } from '../../util/errors.ts';
import { readToken } from './admin-token.ts';
import { API, pathOf, type Answer, type Given, type Route, type RouteName } from './api.ts';
import { AdminError } from './errors.ts';

/** For answers from memory. */
const TIMEOUT_MS = 10_000;

/** Largest answer that is read: the trees of a host with every layer of many images. */
const ANSWER_BYTES_MAX = 64 * 1024 * 1024;

/** Above the time of a route, so that the agent's own reason arrives. */
const TIMEOUT_MARGIN_MS = 10_000;

/** What the system says when the socket of an agent is not for this user. */
const NOT_PERMITTED: ReadonlySet<string> = new Set(['EACCES', 'EPERM']);

/** Where an agent is asked, and with what. */
export interface AdminPlace {
  /** The path of its Unix socket, or `http://host:port`. */
  readonly admin: string;
  /** File of the token that is sent. */
  readonly tokenFile?: string;
}

/**
 * Asks a running agent and gives its answer, checked. Rejects with AdminError, or with a CodedError
 * of code `token-file`.
 */
export async function askAgent<N extends RouteName>(
  place: AdminPlace,
  name: N,
  ...[given]: {} extends Given<N> ? [given?: Given<N>] : [given: Given<N>]
): Promise<Answer<N>> {
  const route: Route = API[name];
  const timeoutMs =
    route.timeoutMs === undefined ? TIMEOUT_MS : route.timeoutMs + TIMEOUT_MARGIN_MS;
  const asked = {
    ...toPlace(place),
    method: route.method,
    path: targetOf(route, given ?? {}),
    timeoutMs,
    body: route.body && JSON.stringify(partOf(route.body, given ?? {})),
  };
  const heard = await exchange(asked, headersOf(place, asked.body));
  return answerOf(route, heard) as Answer<N>;
}

function toPlace({ admin }: AdminPlace): Pick<Asked, 'at' | 'connection'> {
  if (!admin.startsWith('http://')) return { at: admin, connection: { socketPath: admin } };
  const { origin, hostname, port } = new URL(admin);
  // Brackets are for URLs alone.
  return { at: origin, connection: { host: hostname.replace(/^\[|\]$/g, ''), port } };
}

function headersOf(
  { tokenFile }: AdminPlace,
  body: string | undefined,
): Readonly<Record<string, string>> {
  return {
    ...(tokenFile !== undefined && { authorization: `Bearer ${readToken(tokenFile)}` }),
    ...(body !== undefined && {
      'content-type': 'application/json',
      'content-length': String(Buffer.byteLength(body)),
    }),
  };
}

/** The path of a request, with its query. */
function targetOf(route: Route, given: object): string {
  const query = new URLSearchParams(
    Object.entries(partOf(route.query, given)).map(([name, value]) => [name, String(value)]),
  );
  return pathOf(route, { ...given }) + (query.size === 0 ? '' : `?${query.toString()}`);
}

/** Those of the given fields that the schema names. */
function partOf(schema: z.ZodObject | undefined, given: object): Record<string, unknown> {
  const names = new Set(Object.keys(schema?.shape ?? {}));
  return Object.fromEntries(Object.entries(given).filter(([name]) => names.has(name)));
}

interface Asked {
  /** For people. */
  readonly at: string;
  readonly connection: RequestOptions;
  readonly method: string;
  readonly path: string;
  readonly timeoutMs: number;
  readonly body: string | undefined;
}

interface Heard {
  readonly url: string;
  readonly status: number;
  readonly text: string;
}

/** Sends a request on a connection of its own and reads the answer. Rejects with AdminError. */
async function exchange(asked: Asked, headers: Readonly<Record<string, string>>): Promise<Heard> {
  const { at, connection, method, path, timeoutMs, body } = asked;
  const url = at + path;
  const signal = AbortSignal.timeout(timeoutMs);
  const { promise, resolve, reject } = Promise.withResolvers<Heard>();
  const options = { ...connection, method, path, headers, agent: false, signal };
  const sent = request(options, (response) => {
    const pieces: Buffer[] = [];
    let sizeBytes = 0;
    response.on('error', reject);
    response.on('data', (piece: Buffer) => {
      sizeBytes += piece.length;
      if (sizeBytes > ANSWER_BYTES_MAX) response.destroy(tooLarge(url));
      else pieces.push(piece);
    });
    response.on('end', () => {
      const text = Buffer.concat(pieces).toString('utf8');
      resolve({ url, status: response.statusCode ?? 0, text });
    });
  });
  sent.on('error', reject);
  sent.end(body);
  try {
    return await promise;
  } catch (cause) {
    throw cause instanceof AdminError ? cause : failure(asked, { url, signal, cause });
  }
}

function tooLarge(url: string): AdminError {
  return new AdminError(`the answer of ${url} is larger than ${ANSWER_BYTES_MAX} bytes`, {
    code: 'admin-protocol',
    url,
  });
}

function answerOf({ reply }: Route, { url, status, text }: Heard): unknown {
  const isOk = status >= 200 && status < 300;
  if (isOk && typeof reply === 'string') return text;
  const json = jsonOf(text);
  if (json === undefined) {
    throw new AdminError(
      `${url} answered ${status} without JSON: is it the admin address of an agent ` +
        '(admin.socket, admin.listen)?',
      { code: 'admin-protocol', url },
    );
  }
  if (!isOk) {
    const { error, code } = json as { error?: unknown; code?: unknown };
    throw new AdminError(typeof error === 'string' ? error : `${url} answered ${status}`, {
      code: 'admin-refused',
      status,
      reason: typeof code === 'string' ? code : '',
    });
  }
  const issue = typeof reply === 'string' ? undefined : reply.safeParse(json).error?.issues[0];
  if (issue === undefined) return json;
  throw new AdminError(
    `${url} answered something else than docs/ADMIN.md says (${issue.path.join('.')}): is ` +
      'the agent of another version?',
    { code: 'admin-protocol', url },
  );
}

function jsonOf(text: string): object | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? value : undefined;
  } catch {
    return undefined;
  }
}

function failure(
  { at, timeoutMs }: Asked,
  found: { readonly url: string; readonly signal: AbortSignal; readonly cause: unknown },
): AdminError {
  const { url, signal, cause } = found;
  if (signal.aborted) {
    return new AdminError(
      `the agent at ${at} did not answer within ${timeoutMs} ms`,
      { code: 'admin-timeout', url },
      { cause },
    );
  }
  const reason = (cause as NodeJS.ErrnoException).code ?? errorText(cause);
  if (NOT_PERMITTED.has(reason)) {
    return new AdminError(
      `this user may not ask the agent at ${at} (${reason}): run the command as root, or let ` +
        'a group of this user in by admin.socketGroup',
      { code: 'admin-unreachable', url },
      { cause },
    );
  }
  return new AdminError(
    `cannot reach an agent at ${at}: ${reason}; start one with \`xylem agent\` (for devices ` +
      'with `xylem device`), or name its socket or its address with --admin',
    { code: 'admin-unreachable', url },
    { cause },
  );
}
