import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Clock, Timer } from '../../runtime/clock.ts';

/**
 * Requests of one connection that are answered at a time: our clients send none before the
 * answer to the last.
 */
const REQUESTS_MAX = 2;

/**
 * What a connection has for its request to come, or for its answer to be read, before it goes for
 * another one.
 */
const GRACE_MS = 250;

interface Connection {
  /** When it came, or last began or ended a request. */
  sinceMs: number;
  /** Requests whose answers have not left. */
  requests: number;
  /** Of these, the ones that showed that they may ask more than anybody may. */
  held: number;
}

/** Which connections go, in this order: idle ones, then those whose answers are not read. */
const STAGES: readonly ((connection: Connection) => boolean)[] = [
  ({ requests }) => requests === 0,
  ({ held }) => held === 0,
];

/** How many connections a server has. */
interface Bounds {
  /** Beyond it connections go after a moment. */
  readonly connectionsMax: number;
  /** Beyond it they go at once. */
  readonly connectionsAtOnceMax: number;
}

/**
 * Keeps the connections of a server to a bound, so that a client that holds many keeps no others
 * out: a new connection comes in, and the one that has been idle for longest goes, never one that
 * `hold()` names. Closes none within the moment that an honest client needs to send its request, so
 * that more than the bound may be open for so long.
 *
 * Constructed once for a server, before it listens.
 */
export class ConnectionBound {
  readonly #clock: Clock;
  readonly #bounds: Bounds;
  /** The longest unchanged first. */
  readonly #connections = new Map<Socket, Connection>();
  #timer: Timer | undefined;

  constructor({ server, clock }: { readonly server: Server; readonly clock: Clock }, init: Bounds) {
    this.#clock = clock;
    this.#bounds = init;
    server.on('connection', (socket) => this.#opened(socket));
    server.prependListener('request', (request, response) => this.#began(request, response));
  }

  /** Keeps the connection until this request has its answer. */
  hold(request: IncomingMessage, response: ServerResponse): void {
    const connection = this.#connections.get(request.socket);
    if (connection === undefined) return;
    connection.held++;
    response.once('close', () => connection.held--);
  }

  #opened(socket: Socket): void {
    const sinceMs = this.#clock.nowMs();
    this.#connections.set(socket, { sinceMs, requests: 0, held: 0 });
    socket.once('close', () => this.#connections.delete(socket));
    this.#close(this.#bounds.connectionsAtOnceMax, Number.POSITIVE_INFINITY);
    this.#sweepLater();
  }

  #began({ socket }: IncomingMessage, response: ServerResponse): void {
    const connection = this.#connections.get(socket);
    if (connection === undefined) return;
    if (++connection.requests > REQUESTS_MAX) socket.destroy();
    this.#touch(socket, connection);
    response.once('close', () => {
      connection.requests--;
      this.#touch(socket, connection);
    });
  }

  #touch(socket: Socket, connection: Connection): void {
    if (!this.#connections.delete(socket)) return;
    connection.sinceMs = this.#clock.nowMs();
    this.#connections.set(socket, connection);
  }

  #sweepLater(): void {
    if (this.#timer !== undefined || this.#connections.size <= this.#bounds.connectionsMax) return;
    this.#timer = this.#clock.setTimer(GRACE_MS, () => {
      // After what has come meanwhile is read, since this process may have stood still.
      setImmediate(() => {
        this.#timer = undefined;
        this.#close(this.#bounds.connectionsMax, this.#clock.nowMs() - GRACE_MS);
        this.#sweepLater();
      });
    });
  }

  /**
   * Closes the longest unchanged connections down to `countMax`, none that changed after
   * `sinceMsMax`.
   */
  #close(countMax: number, sinceMsMax: number): void {
    for (const mayGo of STAGES) {
      for (const [socket, connection] of this.#connections) {
        if (this.#connections.size <= countMax || connection.sinceMs > sinceMsMax) break;
        if (!mayGo(connection)) continue;
        this.#connections.delete(socket);
        socket.destroy();
      }
    }
  }
}
