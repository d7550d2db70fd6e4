import type { z } from 'zod';
import { errorText } from '../../util/errors.ts';
import { API, pathOf, type Answer, type Given, type Route, type RouteName } from './api.ts';
import { AdminError } from './errors.ts';

/** Where `xylem status` and the like ask unless told otherwise: the default of `admin.listen`, on this host. */
export const ADMIN_URL_DEFAULT = 'http://127.0.0.1:19146';

/** For answers from memory. */
const TIMEOUT_MS = 10_000;

/** Largest answer that is read: the trees of a host with every layer of many images. */
const ANSWER_BYTES_MAX = 64 * 1024 * 1024;

/** Above the time of a route, so that the agent's own reason arrives. */
const TIMEOUT_MARGIN_MS = 10_000;

/** Asks a running agent, at `base` (`http://host:port`), and gives its answer, checked. Rejects with AdminError. */
export async function askAgent<N extends RouteName>(
  base: string,
  name: N,
  ...[given]: {} extends Given<N> ? [given?: Given<N>] : [given: Given<N>]
): Promise<Answer<N>> {
  const route: Route = API[name];
  const url = base.replace(/\/+$/, '') + targetOf(route, given ?? {});
  const timeoutMs =
    route.timeoutMs === undefined ? TIMEOUT_MS : route.timeoutMs + TIMEOUT_MARGIN_MS;
  let response: Response;
  let text: string;
  try {
    response = await fetch(url, {
      method: route.method,
      signal: AbortSignal.timeout(timeoutMs),
      redirect: 'error',
      ...(route.body !== undefined && {
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(partOf(route.body, given ?? {})),
      }),
    });
    text = await textOf(response, url);
  } catch (cause) {
    throw cause instanceof AdminError ? cause : failure(base, { url, timeoutMs, cause });
  }
  return answerOf(route, { url, response, text }) as Answer<N>;
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

interface Heard {
  readonly url: string;
  readonly response: Response;
  readonly text: string;
}

function answerOf({ reply }: Route, { url, response, text }: Heard): unknown {
  if (response.ok && typeof reply === 'string') return text;
  const json = jsonOf(text);
  if (json === undefined) {
    throw new AdminError(
      `${url} answered ${response.status} without JSON: is it the admin address of an agent (admin.listen)?`,
      { code: 'admin-protocol', url },
    );
  }
  if (!response.ok) {
    const { error, code } = json as { error?: unknown; code?: unknown };
    throw new AdminError(typeof error === 'string' ? error : `${url} answered ${response.status}`, {
      code: 'admin-refused',
      status: response.status,
      reason: typeof code === 'string' ? code : '',
    });
  }
  const issue = typeof reply === 'string' ? undefined : reply.safeParse(json).error?.issues[0];
  if (issue === undefined) return json;
  throw new AdminError(
    `${url} answered something else than docs/ADMIN.md says (${issue.path.join('.')}): is the agent of another version?`,
    { code: 'admin-protocol', url },
  );
}

async function textOf(response: Response, url: string): Promise<string> {
  const pieces: Uint8Array[] = [];
  let sizeBytes = 0;
  for await (const piece of response.body ?? []) {
    sizeBytes += piece.length;
    if (sizeBytes > ANSWER_BYTES_MAX) {
      throw new AdminError(`the answer of ${url} is larger than ${ANSWER_BYTES_MAX} bytes`, {
        code: 'admin-protocol',
        url,
      });
    }
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString('utf8');
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
  base: string,
  found: { readonly url: string; readonly timeoutMs: number; readonly cause: unknown },
): AdminError {
  const { url, timeoutMs, cause } = found;
  if (cause instanceof Error && cause.name === 'TimeoutError') {
    return new AdminError(
      `the agent at ${base} did not answer within ${timeoutMs} ms`,
      { code: 'admin-timeout', url },
      { cause },
    );
  }
  // fetch() says "fetch failed"; what failed is in the cause.
  const inner = cause instanceof Error && cause.cause !== undefined ? cause.cause : cause;
  const reason = (inner as NodeJS.ErrnoException).code ?? errorText(inner);
  return new AdminError(
    `cannot reach an agent at ${base}: ${reason}; start one with \`xylem agent\`, or name its admin address with --admin`,
    { code: 'admin-unreachable', url },
    { cause },
  );
}
