import findMyWay, { type HTTPVersion, type Instance } from 'find-my-way';
import { once } from 'node:events';
import { createServer, type Server, type ServerResponse } from 'node:http';
import { boundAddress, errorBody, listenError } from '../../edge/http/listen.ts';
import { httpAddress, parseListenAddress, type ListenAddress } from '../../registry/hosts.ts';
import type { Clock } from '../../runtime/clock.ts';
import { within } from '../../runtime/deadline.ts';
import type { Logger } from '../../runtime/logger.ts';
import { defined } from '../../util/assert.ts';
import { CodedError } from '../../util/errors.ts';
import { NO_SOCKET } from '../config/admin-socket.ts';
import { OwnerSocket, type SocketPlace } from '../owner-socket.ts';
import type { Config } from '../config/config-schema.ts';
import { isOpen, requireAccess, type Door, type Tokens } from './access.ts';
import { AdminToken } from './admin-token.ts';
import { API, ROUTE_NAMES, type Handlers, type Route, type RouteName } from './api.ts';
import { readBody } from './body.ts';
import { check } from './check.ts';
import { ConnectionBound } from './connection-bound.ts';
import { RequestError } from './errors.ts';
import { makeHandlers } from './handlers.ts';
import type { PromMetrics } from './prom-metrics.ts';
import type { Services } from './services.ts';
import { statusOf } from './status-of.ts';

/** Of each door: probes, Prometheus, people. Beyond it the longest idle goes. */
const CONNECTION_BOUNDS = { connectionsMax: 64, connectionsAtOnceMax: 512 };

/**
 * For a client to send the head of its request, or all of it. A probe sends its own together with
 * the connection.
 */
const HEAD_TIMEOUT_MS = 1_500;
const REQUEST_TIMEOUT_MS = 10_000;
const TIMEOUT_CHECK_MS = 500;

/** Above Prometheus' usual scrape interval of 15 s, so that it keeps its connection. */
const KEEP_ALIVE_MS = 20_000;

/** Silence on a socket: above the longest request. */
const SOCKET_IDLE_MS =
  REQUEST_TIMEOUT_MS + Math.max(...ROUTE_NAMES.map((name) => (API[name] as Route).timeoutMs ?? 0));

interface AdminComponents extends Services {
  readonly metrics: Pick<PromMetrics, 'text' | 'contentType'>;
  /** What opens routes over TCP beyond those that are open to anyone. */
  readonly tokens?: Tokens;
  readonly clock: Clock;
  readonly logger: Logger;
}

/**
 * The HTTP server for probes, Prometheus and the `xylem` commands: the routes of api.ts, over TCP
 * and over a Unix socket, each open to whom access.ts lets in.
 *
 * Life: constructed -> `start()` (listens; rejects with ListenError) -> `stop()` (closes every
 * connection).
 */
export class AdminServer {
  readonly #components: AdminComponents;
  readonly #handlers: Handlers;
  readonly #listen: ListenAddress;
  readonly #listenKey: string;
  readonly #tcp: Server;
  readonly #local: Server;
  readonly #socket: OwnerSocket | undefined;

  constructor(
    components: AdminComponents,
    init: {
      readonly listen: ListenAddress;
      /** The key of the configuration that chose `listen`. */
      readonly listenKey: string;
      readonly socket?: SocketPlace;
    },
  ) {
    this.#components = components;
    this.#handlers = makeHandlers(components);
    this.#listen = init.listen;
    this.#listenKey = init.listenKey;
    this.#socket = init.socket && new OwnerSocket(init.socket);
    this.#tcp = this.#server('tcp');
    this.#local = this.#server('socket');
  }

  /** `http://host:port`, with the port that the system chose; valid while it listens. */
  get url(): string {
    return httpAddress(boundAddress(this.#tcp.address()));
  }

  async start(): Promise<void> {
    await this.#socket?.open(this.#local);
    this.#tcp.listen(this.#listen.port, this.#listen.host);
    try {
      await once(this.#tcp, 'listening');
    } catch (cause) {
      throw listenError(this.#listen, this.#listenKey, cause);
    }
  }

  async stop(): Promise<void> {
    await Promise.all([this.#tcp, this.#local].map(closed));
    await this.#socket?.close();
  }

  /** The server of one door, not listening yet. */
  #server(door: Door): Server {
    const router = findMyWay({
      defaultRoute: (request, response) => {
        const text = `nothing is served at ${request.method ?? ''} of this path`;
        this.#refuse(new RequestError(text, { code: 'not-found' }), response);
      },
    });
    const server = createServer({
      headersTimeout: HEAD_TIMEOUT_MS,
      requestTimeout: REQUEST_TIMEOUT_MS,
      connectionsCheckingInterval: TIMEOUT_CHECK_MS,
      keepAliveTimeout: KEEP_ALIVE_MS,
    });
    server.timeout = SOCKET_IDLE_MS;
    const { clock } = this.#components;
    const bound = new ConnectionBound({ server, clock }, CONNECTION_BOUNDS);
    for (const name of ROUTE_NAMES) this.#add(router, name, { door, bound });
    server.on('request', (request, response) => {
      if (!request.socket.destroyed) router.lookup(request, response);
    });
    return server;
  }

  #add<N extends RouteName>(
    router: Instance<HTTPVersion.V1>,
    name: N,
    { door, bound }: { readonly door: Door; readonly bound: ConnectionBound },
  ): void {
    const route: Route = API[name];
    const { tokens = {} } = this.#components;
    const methods = route.method === 'GET' ? (['GET', 'HEAD'] as const) : ([route.method] as const);
    router.on([...methods], route.path, async (request, response, ...found) => {
      const [params, , query] = found;
      try {
        requireAccess(request.headers, route.access, { door, tokens });
        if (!isOpen(route.access)) bound.hold(request, response);
        const body = route.body === undefined ? {} : await readBody(request);
        const taken = check<N>(route, { params, query, body });
        const answer = await this.#bounded(route, response, (signal) =>
          this.#handlers[name](taken, signal),
        );
        this.#answer(route, answer, response);
      } catch (error) {
        this.#refuse(error, response);
      }
    });
  }

  /**
   * Runs a handler with a signal that aborts when the client goes away or the time of the route is
   * over.
   */
  async #bounded<T>(
    { timeoutMs, summary }: Route,
    response: ServerResponse,
    handle: (signal: AbortSignal) => T | Promise<T>,
  ): Promise<T> {
    const gone = new AbortController();
    const onClose = (): void =>
      gone.abort(new RequestError('the client went away', { code: 'timeout' }));
    response.once('close', onClose);
    try {
      if (timeoutMs === undefined) return await handle(gone.signal);
      return await within(this.#components.clock, timeoutMs, async (signal) => handle(signal), {
        signal: gone.signal,
        reason: () =>
          new RequestError(`not done within ${timeoutMs} ms: ${summary}`, { code: 'timeout' }),
      });
    } finally {
      response.off('close', onClose);
    }
  }

  #answer(route: Route, answer: unknown, response: ServerResponse): void {
    const status = route.status ?? 200;
    if (typeof answer !== 'string') {
      send(response, status, 'application/json; charset=utf-8', JSON.stringify(answer));
      return;
    }
    const { contentType } = this.#components.metrics;
    const type = route.reply === 'metrics' ? contentType : 'text/plain; charset=utf-8';
    send(response, status, type, answer);
  }

  #refuse(error: unknown, response: ServerResponse): void {
    if (!(error instanceof CodedError)) {
      this.#components.logger.error({ error }, 'an admin request failed');
    }
    const status = statusOf(error);
    if (status === 401) response.setHeader('www-authenticate', 'Bearer');
    send(response, status, 'application/json; charset=utf-8', JSON.stringify(errorBody(error)));
  }
}

/** The admin endpoint as the configuration describes it. */
export function makeAdminServer(
  components: Omit<AdminComponents, 'tokens'>,
  config: Config['admin'],
  keys = { listen: 'admin.listen', socket: 'admin.socket' },
): AdminServer {
  const { socket, socketGroup: group, listen, tokenFile, readTokenFile } = config;
  const { logger } = components;
  const tokens = {
    ...(tokenFile && { change: new AdminToken({ logger }, { file: tokenFile }) }),
    ...(readTokenFile && { read: new AdminToken({ logger }, { file: readTokenFile }) }),
  };
  const place =
    socket === NO_SOCKET
      ? undefined
      : { path: socket, key: keys.socket, ...(group !== undefined && { group }) };
  return new AdminServer(
    { ...components, tokens },
    {
      listen: defined(parseListenAddress(listen), 'the configuration was checked'),
      listenKey: keys.listen,
      ...(place && { socket: place }),
    },
  );
}

async function closed(server: Server): Promise<void> {
  if (!server.listening) return;
  const end = once(server, 'close');
  server.close();
  server.closeAllConnections();
  await end;
}

function send(response: ServerResponse, status: number, type: string, text: string): void {
  response.writeHead(status, {
    'content-type': type,
    'content-length': Buffer.byteLength(text),
  });
  response.end(text);
}
