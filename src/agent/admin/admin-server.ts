import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { isAbsolute, normalize } from 'node:path';
import { parseDigest } from '../../image/digest.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import { CodedError, errorText } from '../../util/errors.ts';
import { parseSizeBytes } from '../../util/sizes.ts';
import {
  httpAddress,
  isLoopback,
  parseListenAddress,
  type ListenAddress,
} from '../../registry/hosts.ts';
import { boundAddress, errorBody, listenError } from '../../edge/http/listen.ts';
import type { AdminToken } from './admin-token.ts';
import type { MountService, StatusSource, StoreService } from './services.ts';
import type { PreheatService } from '../../preheat/messages.ts';
import { addPreheatRoutes } from './preheat-routes.ts';
import type { PromMetrics } from './prom-metrics.ts';

/** An image reference and a path fit many times over. */
const BODY_BYTES_MAX = 64 * 1024;

/** Probes, Prometheus and people. */
const CONNECTIONS_MAX = 256;

/** For a client to send its request. */
const REQUEST_TIMEOUT_MS = 10_000;

/** Above Prometheus' usual scrape interval of 15 s, so that it keeps its connection. */
const KEEP_ALIVE_MS = 20_000;

/** For the first blocks of an image to arrive and the kernel to mount it. */
const MOUNT_TIMEOUT_MS = 120_000;

/** Linux: PATH_MAX. References are shorter. */
const TEXT_LENGTH_MAX = 4096;

const IMAGE = /^docker:\/\/[^\s/]+\/\S+$/;

/** No route has a schema. Fastify would load its compilers all the same: 1 MB of code that stays in memory. */
const NO_SCHEMAS = {
  buildValidator: () => noSchemas,
  buildSerializer: () => noSchemas,
};

/** Why the admin endpoint itself refuses a request. */
class AdminError extends CodedError<
  | { readonly code: 'bad-request' }
  | { readonly code: 'loopback-only' }
  | { readonly code: 'no-devices' }
  | { readonly code: 'no-store' }
  | { readonly code: 'timeout' }
> {}

/** Codes of errors, of ours and of the services behind, that are answers of their own; all others are 500. */
const STATUS_OF_CODE: Readonly<Record<string, number>> = {
  'bad-request': 400,
  'invalid-reference': 400,
  'target-not-usable': 400,
  'already-mounted': 409,
  busy: 409,
  'loopback-only': 403,
  'not-permitted': 403,
  unauthorized: 403,
  denied: 403,
  'not-found': 404,
  'unsupported-filesystem': 422,
  'no-devices': 501,
  'no-store': 501,
  'too-many-pins': 409,
  full: 503,
  refused: 403,
  unreachable: 503,
  stopped: 503,
  'too-many-mounts': 503,
  timeout: 504,
};

interface AdminComponents {
  readonly status: StatusSource;
  readonly metrics: Pick<PromMetrics, 'text' | 'contentType'>;
  /** Absent where this process serves no block devices. */
  readonly mounts?: MountService;
  /** Absent where this process keeps no blocks. */
  readonly store?: StoreService;
  /** Absent where this process is no agent of a cluster. */
  readonly preheats?: PreheatService;
  /** Lets other hosts ask for preheats; absent when none may. */
  readonly token?: AdminToken;
  readonly clock: Clock;
  readonly logger: Logger;
}

/**
 * The HTTP server for probes, Prometheus and the `xylem` commands.
 *
 * It tells facts to whoever reaches it; what changes something is done for connections from this host alone, and only when the request was
 * not made through a foreign name, so that no web page can do it either. Preheats are done also for who has the token.
 *
 * Life: constructed -> `start()` (listens; rejects with ListenError) -> `stop()` (closes every connection).
 */
export class AdminServer {
  readonly #components: AdminComponents;
  readonly #listen: ListenAddress;
  readonly #app: FastifyInstance;

  constructor(components: AdminComponents, init: { readonly listen: ListenAddress }) {
    this.#components = components;
    this.#listen = init.listen;
    this.#app = fastify({
      logger: false,
      bodyLimit: BODY_BYTES_MAX,
      requestTimeout: REQUEST_TIMEOUT_MS,
      // Socket idleness: above the longest request, a mount.
      connectionTimeout: MOUNT_TIMEOUT_MS + REQUEST_TIMEOUT_MS,
      keepAliveTimeout: KEEP_ALIVE_MS,
      forceCloseConnections: true,
      schemaController: { compilersFactory: NO_SCHEMAS },
    });
    this.#app.server.maxConnections = CONNECTIONS_MAX;
    // Plain text is what web pages may post without asking first.
    this.#app.removeContentTypeParser('text/plain');
    this.#app.setErrorHandler((error, _, reply) => this.#fail(error, reply));
    this.#app.setNotFoundHandler((request, reply) =>
      reply
        .code(404)
        .send({ error: `nothing is served at ${request.method} of this path`, code: 'not-found' }),
    );
    this.#addProbes();
    this.#addFacts();
    this.#addMounts();
    this.#addStore();
    const { preheats, token } = components;
    if (preheats !== undefined) {
      const authorize = (request: FastifyRequest): void => {
        if (token?.accepts(request.headers.authorization) !== true) requireLoopback(request);
      };
      addPreheatRoutes(this.#app, { service: preheats, authorize });
    }
  }

  /** `http://host:port`, with the port that the system chose; valid while it listens. */
  get url(): string {
    return httpAddress(boundAddress(this.#app.server.address()));
  }

  async start(): Promise<void> {
    try {
      await this.#app.listen({ host: this.#listen.host, port: this.#listen.port });
    } catch (cause) {
      throw listenError(this.#listen, 'admin.listen', cause);
    }
  }

  async stop(): Promise<void> {
    await this.#app.close();
  }

  #addProbes(): void {
    const { status, metrics } = this.#components;
    this.#app.get('/livez', () => ({ live: true }));
    this.#app.get('/readyz', (_, reply) => {
      const reason = status.notReady();
      if (reason === undefined) return reply.send({ ready: true });
      return reply.code(503).send({ error: reason, code: 'not-ready' });
    });
    this.#app.get('/metrics', async (_, reply) =>
      reply.header('content-type', metrics.contentType).send(await metrics.text()),
    );
  }

  #addFacts(): void {
    const { status } = this.#components;
    this.#app.get('/api/v1/status', () => status.status());
    this.#app.get('/api/v1/blobs', () => ({ blobs: status.blobs() }));
    this.#app.get<{ Querystring: { digest?: unknown } }>('/api/v1/tree', (request) => {
      const text = request.query.digest;
      if (text === undefined) return { trees: status.tree() };
      const digest = typeof text === 'string' ? parseDigest(text) : undefined;
      if (digest === undefined)
        throw badRequest('digest', text, 'sha256: and 64 lower-case hex digits');
      return { trees: status.tree(digest) };
    });
  }

  #addMounts(): void {
    this.#app.get('/api/v1/mounts', () => ({ mounts: this.#mounts().list() }));
    this.#app.post('/api/v1/mounts', async (request, reply) => {
      requireLoopback(request);
      const image = textOf(request.body, 'image');
      if (!IMAGE.test(image)) throw badRequest('image', image, 'docker://HOST[:PORT]/NAME:TAG');
      return this.#mount(image, dirOf(request.body), reply);
    });
    this.#app.delete('/api/v1/mounts', async (request) => {
      requireLoopback(request);
      const dir = dirOf(request.body);
      await this.#mounts().unmount(dir);
      return { dir };
    });
  }

  #addStore(): void {
    const path = '/api/v1/store';
    this.#app.get(path, () => ({ blobs: this.#store().usage() }));
    this.#app.post(`${path}/pins`, async (request) => {
      requireLoopback(request);
      return { digests: await this.#store().pin(pinOf(request.body)) };
    });
    this.#app.delete(`${path}/pins`, async (request) => {
      requireLoopback(request);
      return { digests: await this.#store().unpin(pinOf(request.body)) };
    });
    this.#app.post(`${path}/gc`, (request) => {
      requireLoopback(request);
      return this.#store().gc(targetOf(request.body));
    });
  }

  async #mount(image: string, dir: string, reply: FastifyReply): Promise<object> {
    const mounts = this.#mounts();
    const abort = new AbortController();
    const timer = this.#components.clock.setTimer(MOUNT_TIMEOUT_MS, () =>
      abort.abort(
        new AdminError(`${image} was not mounted within ${MOUNT_TIMEOUT_MS} ms`, {
          code: 'timeout',
        }),
      ),
    );
    // Whoever asked and went away does not want it any more.
    const onClose = (): void =>
      abort.abort(new AdminError('the client went away', { code: 'timeout' }));
    reply.raw.on('close', onClose);
    try {
      return await mounts.mount(image, dir, abort.signal);
    } finally {
      timer.cancel();
      reply.raw.off('close', onClose);
    }
  }

  #mounts(): MountService {
    if (this.#components.mounts !== undefined) return this.#components.mounts;
    throw new AdminError('this agent serves no block devices: set device.enabled', {
      code: 'no-devices',
    });
  }

  #store(): StoreService {
    if (this.#components.store !== undefined) return this.#components.store;
    throw new AdminError('this process keeps no blocks: ask the agent of this host', {
      code: 'no-store',
    });
  }

  #fail(error: unknown, reply: FastifyReply): FastifyReply {
    if (error instanceof CodedError) {
      return reply.code(STATUS_OF_CODE[String(error.code)] ?? 500).send(errorBody(error));
    }
    const status = (error as { statusCode?: unknown }).statusCode;
    if (typeof status === 'number' && status >= 400 && status < 500) {
      return reply.code(status).send({ error: errorText(error), code: 'bad-request' });
    }
    this.#components.logger.error({ error }, 'an admin request failed');
    return reply.code(500).send(errorBody(error));
  }
}

function noSchemas(): never {
  throw new Error('no route of the admin endpoint has a schema');
}

function requireLoopback(request: FastifyRequest): void {
  const peer = request.socket.remoteAddress ?? '';
  if (!isLoopback(peer)) {
    throw new AdminError(
      `${peer} may not change anything here: ask from the host itself, through 127.0.0.1`,
      {
        code: 'loopback-only',
      },
    );
  }
  const name = request.headers.host ?? '';
  const host = parseListenAddress(name)?.host ?? name;
  if (host !== 'localhost' && !isLoopback(host)) {
    throw new AdminError(
      `requests that change something must be made to 127.0.0.1, not to ${JSON.stringify(host)}`,
      {
        code: 'loopback-only',
      },
    );
  }
}

function dirOf(body: unknown): string {
  const dir = textOf(body, 'dir');
  if (!isAbsolute(dir) || dir.includes('\0')) throw badRequest('dir', dir, 'an absolute path');
  return normalize(dir).replace(/(?<=.)\/+$/, '');
}

function pinOf(body: unknown): string {
  const what = textOf(body, 'what');
  if (parseDigest(what) !== undefined || IMAGE.test(what)) return what;
  throw badRequest(
    'what',
    what,
    'sha256: and 64 lower-case hex digits, or docker://HOST[:PORT]/NAME:TAG',
  );
}

/** Bytes that a collection is to leave; undefined when the request names none. */
function targetOf(body: unknown): number | undefined {
  if (typeof body !== 'object' || body === null || !Object.hasOwn(body, 'to')) return undefined;
  const to = textOf(body, 'to');
  const bytes = parseSizeBytes(to);
  if (bytes === undefined) throw badRequest('to', to, 'a size such as 10GiB, or a count of bytes');
  return bytes;
}

function textOf(body: unknown, field: string): string {
  const value: unknown =
    typeof body === 'object' && body !== null && Object.hasOwn(body, field)
      ? (body as Record<string, unknown>)[field]
      : undefined;
  if (typeof value === 'string' && value.length > 0 && value.length <= TEXT_LENGTH_MAX)
    return value;
  throw badRequest(field, value, `a text of 1 to ${TEXT_LENGTH_MAX} characters in a JSON body`);
}

function badRequest(field: string, value: unknown, rule: string): AdminError {
  const shown = value === undefined ? 'missing' : JSON.stringify(value).slice(0, 200);
  return new AdminError(`${field} is ${shown}, but must be ${rule}`, { code: 'bad-request' });
}
