import type { Socket } from 'node:net';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Clock } from '../../runtime/clock.ts';
import type { Metrics } from '../../runtime/metrics.ts';
import { httpAddress, type ListenAddress } from '../../registry/hosts.ts';
import { HostCheck } from './host-check.ts';
import { boundAddress, listenError, type ErrorBody } from './listen.ts';
import { httpMetrics, type HttpMetrics } from './metrics.ts';

/** One of the things that the local endpoint serves. */
export interface LocalRoute {
  /** Whether the request is for this route; if so it answers, now or later, and never throws. */
  handle(request: IncomingMessage, response: ServerResponse): boolean;
}

/** A program of this host that needs longer to send a head is stuck. */
const HEAD_TIMEOUT_MS = 10_000;

/**
 * overlaybd keeps connections for as long as it is let; reads of a container come in bursts seconds
 * apart.
 */
const KEEP_ALIVE_MS = 60_000;

/** Silence on a socket, in either direction; above the 25 s that an answer may take. */
const SOCKET_IDLE_MS = 60_000;

/**
 * Requests that a connection may be ahead of its answers. Our clients send none ahead; each costs
 * some KiB.
 */
const AHEAD_MAX = 16;

/** How long answers in flight may go on at a stop. */
const DRAIN_MS = 5_000;

/**
 * The HTTP server for programs of this host. Routes see the raw request target, since origin URLs
 * in it must not be tidied. A connection gets one answer at a time: the next request is begun when
 * the answer before it has left, so that none piles up answers.
 *
 * Life: constructed -> `start()` (listens; rejects with ListenError) -> `stop()` (no new
 * connections, answers in flight get 5 s, then all is closed).
 */
export class LocalServer {
  readonly #clock: Clock;
  readonly #listen: ListenAddress;
  readonly #server: Server;
  readonly #metrics: HttpMetrics;
  readonly #routes: readonly LocalRoute[];
  readonly #hosts: HostCheck;
  /** How many requests of a connection wait for the answer before them. */
  readonly #ahead = new WeakMap<Socket, number>();

  /** `connectionsMax`: beyond it new ones are closed. */
  constructor(
    components: {
      readonly routes: readonly LocalRoute[];
      readonly clock: Clock;
      readonly metrics: Metrics;
    },
    init: { readonly listen: ListenAddress; readonly connectionsMax: number },
  ) {
    this.#clock = components.clock;
    this.#listen = init.listen;
    this.#routes = components.routes;
    this.#hosts = new HostCheck(init.listen);
    this.#metrics = httpMetrics(components.metrics);
    this.#server = createServer(
      {
        headersTimeout: HEAD_TIMEOUT_MS,
        requestTimeout: HEAD_TIMEOUT_MS,
        keepAliveTimeout: KEEP_ALIVE_MS,
        noDelay: true,
      },
      (request, response) => this.#begin(request, response),
    );
    this.#server.timeout = SOCKET_IDLE_MS;
    this.#server.maxConnections = init.connectionsMax;
    this.#count();
  }

  /**
   * A response has its socket from the start, or when the response before it has been handed to the
   * system.
   */
  #begin(request: IncomingMessage, response: ServerResponse): void {
    if (response.socket !== null) return this.#handle(request, response);
    const { socket } = request;
    const ahead = (this.#ahead.get(socket) ?? 0) + 1;
    this.#ahead.set(socket, ahead);
    if (ahead > AHEAD_MAX) {
      if (!socket.destroyed) this.#metrics.refused.inc({});
      socket.destroy();
      return;
    }
    response.once('socket', () => {
      this.#ahead.set(socket, (this.#ahead.get(socket) ?? 1) - 1);
      // A response ends with its connection as well, and the next one then gets a socket that is
      // gone.
      if (!socket.destroyed) this.#handle(request, response);
    });
  }

  #handle(request: IncomingMessage, response: ServerResponse): void {
    if (!this.#hosts.accepts(request.headers.host)) return misdirected(request, response);
    if (!this.#routes.some((route) => route.handle(request, response))) {
      refuse(response, 404, { error: 'nothing is served at this path', code: 'not-found' });
    }
  }

  #count(): void {
    const { connections, refused } = this.#metrics;
    let count = 0;
    this.#server.on('connection', (socket) => {
      connections.set({}, ++count);
      socket.once('close', () => connections.set({}, --count));
    });
    this.#server.on('drop', () => refused.inc({}));
  }

  /** `http://host:port`, with the port that the system chose; valid while it listens. */
  get url(): string {
    return httpAddress(boundAddress(this.#server.address()));
  }

  start(): Promise<void> {
    return new Promise((resolve, reject) => {
      const onError = (error: Error): void =>
        reject(listenError(this.#listen, 'local.listen', error));
      this.#server.once('error', onError);
      this.#server.listen(this.#listen.port, this.#listen.host, () => {
        this.#server.off('error', onError);
        resolve();
      });
    });
  }

  async stop(): Promise<void> {
    if (!this.#server.listening) return;
    const timer = this.#clock.setTimer(DRAIN_MS, () => this.#server.closeAllConnections());
    await new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
      this.#server.closeIdleConnections();
    });
    timer.cancel();
  }
}

function misdirected(request: IncomingMessage, response: ServerResponse): void {
  const shown = JSON.stringify(request.headers.host ?? '').slice(0, 100);
  const error =
    `the Host header names ${shown}: ask for 127.0.0.1, localhost, [::1] or the host of ` +
    'local.listen';
  refuse(response, 421, { error, code: 'misdirected' });
}

function refuse(response: ServerResponse, status: number, body: ErrorBody): void {
  const text = `${JSON.stringify(body)}\n`;
  response.writeHead(status, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(text),
  });
  response.end(text);
}
