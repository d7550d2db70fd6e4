import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

/** Requests of one connection that are answered at a time: no client of ours sends one before the answer to the last. */
const REQUESTS_MAX = 2;

interface Connection {
  /** Requests whose answers have not left. */
  requests: number;
  /** Of these, the ones that showed that they may ask more than anybody may. */
  held: number;
}

/**
 * Keeps the connections of a server to a bound, so that whoever holds many cannot keep others out: a new connection comes in,
 * and the one that has been idle for longest goes. Then those go whose answers are not read, and never one that `hold()` names.
 *
 * Constructed once for a server, before it listens.
 */
export class ConnectionBound {
  readonly #connectionsMax: number;
  /** The longest idle first. */
  readonly #connections = new Map<Socket, Connection>();
  #isSweeping = false;

  constructor(server: Server, init: { readonly connectionsMax: number }) {
    this.#connectionsMax = init.connectionsMax;
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
    this.#connections.set(socket, { requests: 0, held: 0 });
    socket.once('close', () => this.#connections.delete(socket));
    if (this.#connections.size <= this.#connectionsMax || this.#isSweeping) return;
    this.#isSweeping = true;
    // Of the connections that came together with this one some bring a request along, which is read in the next turn of the
    // event loop: they get their answers first.
    setImmediate(() => setImmediate(() => this.#sweep()));
  }

  #began({ socket }: IncomingMessage, response: ServerResponse): void {
    const connection = this.#connections.get(socket);
    if (connection === undefined) return;
    if (++connection.requests > REQUESTS_MAX) socket.destroy();
    response.once('close', () => {
      connection.requests--;
      // To the end: it has been idle for the shortest.
      if (this.#connections.delete(socket)) this.#connections.set(socket, connection);
    });
  }

  #sweep(): void {
    this.#isSweeping = false;
    const stages = [
      ({ requests }: Connection) => requests === 0,
      ({ held }: Connection) => held === 0,
    ];
    for (const mayGo of stages) {
      for (const [socket, connection] of this.#connections) {
        if (this.#connections.size <= this.#connectionsMax) return;
        if (!mayGo(connection)) continue;
        this.#connections.delete(socket);
        socket.destroy();
      }
    }
  }
}
