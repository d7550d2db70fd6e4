import findMyWay from 'find-my-way';
import { once } from 'node:events';
import { createServer, type Server, type ServerResponse } from 'node:http';
import { boundAddress, errorBody, listenError } from '../../edge/http/listen.ts';
import { httpAddress, type ListenAddress } from '../../registry/hosts.ts';
import type { Clock } from '../../runtime/clock.ts';
import { within } from '../../runtime/deadline.ts';
import type { Logger } from '../../runtime/logger.ts';
import { CodedError } from '../../util/errors.ts';
import { requireAccess } from './access.ts';
import type { AdminToken } from './admin-token.ts';
import { API, ROUTE_NAMES, type Handlers, type Route, type RouteName } from './api.ts';
import { readBody } from './body.ts';
import { check } from './check.ts';
import { RequestError } from './errors.ts';
import { makeHandlers } from './handlers.ts';
import type { PromMetrics } from './prom-metrics.ts';
import type { Services } from './services.ts';
import { statusOf } from './status-of.ts';

/** Probes, Prometheus and people. */
const CONNECTIONS_MAX = 256;

/** For a client to send its request. */
const REQUEST_TIMEOUT_MS = 10_000;

/** Above Prometheus' usual scrape interval of 15 s, so that it keeps its connection. */
const KEEP_ALIVE_MS = 20_000;

/** Silence on a socket: above the longest request. */
const SOCKET_IDLE_MS =
  REQUEST_TIMEOUT_MS + Math.max(...ROUTE_NAMES.map((name) => (API[name] as Route).timeoutMs ?? 0));

interface AdminComponents extends Services {
  readonly metrics: Pick<PromMetrics, 'text' | 'contentType'>;
  /** Lets other hosts ask for preheats; absent when none may. */
  readonly token?: AdminToken;
  readonly clock: Clock;
  readonly logger: Logger;
}

/**
 * The HTTP server for probes, Prometheus and the `xylem` commands: the routes of api.ts, each open to whom access.ts lets in.
 *
 * Life: constructed -> `start()` (listens; rejects with ListenError) -> `stop()` (closes every connection).
 */
export class AdminServer {
  readonly #components: AdminComponents;
  readonly #handlers: Handlers;
  readonly #listen: ListenAddress;
  readonly #server: Server;
  readonly #router = findMyWay({
    defaultRoute: (request, response) => {
      const text = `nothing is served at ${request.method ?? ''} of this path`;
      this.#refuse(new RequestError(text, { code: 'not-found' }), response);
    },
  });

  constructor(components: AdminComponents, init: { readonly listen: ListenAddress }) {
    this.#components = components;
    this.#handlers = makeHandlers(components);
    this.#listen = init.listen;
    for (const name of ROUTE_NAMES) this.#add(name);
    this.#server = createServer(
      { requestTimeout: REQUEST_TIMEOUT_MS, keepAliveTimeout: KEEP_ALIVE_MS },
      (request, response) => this.#router.lookup(request, response),
    );
    this.#server.timeout = SOCKET_IDLE_MS;
    this.#server.maxConnections = CONNECTIONS_MAX;
  }

  /** `http://host:port`, with the port that the system chose; valid while it listens. */
  get url(): string {
    return httpAddress(boundAddress(this.#server.address()));
  }

  async start(): Promise<void> {
    this.#server.listen(this.#listen.port, this.#listen.host);
    try {
      await once(this.#server, 'listening');
    } catch (cause) {
      throw listenError(this.#listen, 'admin.listen', cause);
    }
  }

  async stop(): Promise<void> {
    if (!this.#server.listening) return;
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.#server.closeAllConnections();
    await closed;
  }

  #add<N extends RouteName>(name: N): void {
    const route: Route = API[name];
    const methods = route.method === 'GET' ? (['GET', 'HEAD'] as const) : ([route.method] as const);
    this.#router.on([...methods], route.path, async (request, response, ...found) => {
      const [params, , query] = found;
      try {
        requireAccess(request, route, this.#components.token);
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

  /** Runs a handler with a signal that aborts when the client goes away or the time of the route is over. */
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
    const text = JSON.stringify(errorBody(error));
    send(response, statusOf(error), 'application/json; charset=utf-8', text);
  }
}

function send(response: ServerResponse, status: number, type: string, text: string): void {
  response.writeHead(status, {
    'content-type': type,
    'content-length': Buffer.byteLength(text),
  });
  response.end(text);
}
