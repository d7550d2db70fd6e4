import { once } from 'node:events';
import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { onTestFinished } from 'vitest';
import { stopServer } from '../../src/demo/loopback-server.ts';

/** Listens on a free port of loopback until the running test ends. Returns `host:port`. */
export async function listen(server: Server): Promise<string> {
  server.listen(0, '127.0.0.1');
  onTestFinished(() => stopServer(server));
  await once(server, 'listening');
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** An HTTP server that answers by `listener` until the running test ends. Returns `host:port`. */
export function startServer(listener: RequestListener): Promise<string> {
  return listen(createServer(listener));
}
