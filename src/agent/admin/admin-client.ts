import { errorText } from '../../util/errors.ts';
import { AdminError } from './errors.ts';

/** Where `xylem status` and the like ask unless told otherwise: the default of `admin.listen`, on this host. */
export const ADMIN_URL_DEFAULT = 'http://127.0.0.1:19146';

/** For answers from memory. */
const TIMEOUT_MS = 10_000;

/** Largest answer that is read: the trees of a host with every layer of many images. */
const ANSWER_BYTES_MAX = 64 * 1024 * 1024;

interface AdminRequest {
  readonly method: 'GET' | 'POST' | 'DELETE';
  /** With the query, if any. */
  readonly path: string;
  readonly body?: Readonly<Record<string, string | number | boolean>>;
  /** Longest wait for the whole answer. */
  readonly timeoutMs?: number;
}

/** Asks a running agent, at `base` (`http://host:port`), and gives the JSON of its answer. Rejects with AdminError. */
export async function askAgent(base: string, request: AdminRequest): Promise<unknown> {
  const url = base.replace(/\/+$/, '') + request.path;
  const timeoutMs = request.timeoutMs ?? TIMEOUT_MS;
  let response: Response;
  let text: string;
  try {
    response = await fetch(url, {
      method: request.method,
      signal: AbortSignal.timeout(timeoutMs),
      redirect: 'error',
      ...(request.body !== undefined && {
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(request.body),
      }),
    });
    text = await textOf(response, url);
  } catch (cause) {
    throw cause instanceof AdminError ? cause : failure(base, { url, timeoutMs, cause });
  }
  const json = jsonOf(text);
  if (json === undefined) {
    throw new AdminError(
      `${url} answered ${response.status} without JSON: is it the admin address of an agent (admin.listen)?`,
      { code: 'admin-protocol', url },
    );
  }
  if (response.ok) return json;
  const { error, code } = json as { error?: unknown; code?: unknown };
  throw new AdminError(typeof error === 'string' ? error : `${url} answered ${response.status}`, {
    code: 'admin-refused',
    status: response.status,
    reason: typeof code === 'string' ? code : '',
  });
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
