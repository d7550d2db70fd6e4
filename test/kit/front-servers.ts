import { readFileSync } from 'node:fs';
import {
  createServer,
  request as httpRequest,
  type IncomingMessage,
  type ServerResponse,
} from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { connect, type Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import { onTestFinished } from 'vitest';
import type { Certificates } from './certificates.ts';
import { listen } from './servers.ts';

/**
 * An HTTPS server on loopback that demands from every client a certificate of the authority, and
 * passes requests on to `host:port`.
 */
export async function startClientCertFront(
  to: string,
  certificates: Certificates,
): Promise<{ readonly host: string; readonly subjects: readonly string[] }> {
  const subjects: string[] = [];
  const server = createTlsServer(
    {
      cert: readFileSync(certificates.certificateFile),
      key: readFileSync(certificates.keyFile),
      ca: certificates.ca,
      requestCert: true,
    },
    (request, response) => {
      const { subject } = (request.socket as TLSSocket).getPeerCertificate();
      subjects.push(String(subject?.CN));
      pass(request, response, new URL(request.url ?? '', `http://${to}`));
    },
  );
  return { host: await listen(server), subjects };
}

/**
 * An HTTP proxy on loopback: tunnels (CONNECT) and whole URLs. Records each request, and the
 * client's authorization.
 */
export async function startProxy(): Promise<{
  readonly url: string;
  readonly asked: readonly string[];
  readonly authorizations: ReadonlySet<string>;
}> {
  const asked: string[] = [];
  const authorizations = new Set<string>();
  const sockets = new Set<Socket>();
  const note = (request: IncomingMessage): void => {
    asked.push(`${request.method} ${request.url}`);
    for (const name of ['proxy-authorization', 'authorization']) {
      const value = request.headers[name];
      if (value !== undefined) authorizations.add(`${name}: ${String(value)}`);
    }
  };
  const server = createServer((request, response) => {
    note(request);
    pass(request, response, new URL(request.url ?? ''));
  });
  server.on('connect', (request: IncomingMessage, client: Socket) => {
    note(request);
    const { hostname, port } = new URL(`http://${request.url}`);
    const upstream = connect(Number(port), hostname, () => {
      client.write('HTTP/1.1 200 Connection established\r\n\r\n');
      client.pipe(upstream).pipe(client);
    });
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => sockets.delete(socket));
    }
  });
  onTestFinished(() => sockets.forEach((socket) => socket.destroy()));
  return { url: `http://${await listen(server)}`, asked, authorizations };
}

function pass(request: IncomingMessage, response: ServerResponse, url: URL): void {
  const { method, headers } = request;
  const passed = httpRequest(url, { method: method ?? 'GET', headers }, (answer) => {
    response.writeHead(answer.statusCode ?? 502, answer.headers);
    answer.pipe(response);
  });
  passed.on('error', () => response.destroy());
  request.pipe(passed);
}
