import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/**
 * A plain HTTP server on loopback: the base of the small registries of the demo, tests and
 * benchmarks.
 *
 * Life: constructed -> `start()` (listens) -> `stop()`.
 */
export abstract class LoopbackServer {
  readonly #server: Server;
  readonly #port: number;

  /** Uses a free port by default. */
  constructor(port = 0) {
    this.#port = port;
    this.#server = createServer((request, response) => {
      this.handle(request, response).catch(() => response.destroy());
    });
  }

  /** `host:port`, once started. */
  get address(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async start(): Promise<void> {
    this.#server.listen(this.#port, '127.0.0.1');
    await once(this.#server, 'listening');
  }

  /** Stops listening and cuts the requests in flight. */
  async stop(): Promise<void> {
    await stopServer(this.#server);
  }

  /** Answers a request. When it rejects, the server cuts the connection. */
  protected abstract handle(request: IncomingMessage, response: ServerResponse): Promise<void>;
}

/** Closes a server with all its connections; does nothing when it does not listen. */
export async function stopServer(server: Server): Promise<void> {
  if (!server.listening) return;
  const closed = once(server, 'close');
  server.close();
  server.closeAllConnections();
  await closed;
}
