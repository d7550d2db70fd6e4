import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer, request, type RequestListener, type Server } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { onTestFinished } from 'vitest';
import { stopServer } from '../../src/demo/loopback-server.ts';
import type { Certificates } from './certificates.ts';
import type { AtEnd } from './temp-folder.ts';

/** A request to a registry, and the size of its answer. */
export interface ProxiedRequest {
  readonly method: string;
  /** Without the query. */
  readonly path: string;
  /** The client's name for itself. */
  readonly client: string;
  readonly authorization: string | undefined;
  status: number;
  bodyBytes: number;
}

/**
 * Stands in front of a registry, counts the requests, and may answer in its place. Ends with the
 * running test, if nothing else is said.
 */
export class RegistryProxy {
  readonly requests: ProxiedRequest[] = [];
  /** Answers instead of the registry when it is set and returns true. */
  misbehave: ((...of: Parameters<RequestListener>) => boolean) | undefined;
  /** What the registry is asked for in place of a path. */
  rewrite = (url: string): string => url;
  readonly #server: Server;
  /** `host:port`; still set after the stop. */
  address = '';

  private constructor(init: {
    target: string;
    tls: Certificates | undefined;
    wantsCertificate: boolean;
  }) {
    const { target, tls, wantsCertificate } = init;
    const listener: RequestListener = (incoming, response) => {
      const { method = '', url = '', headers } = incoming;
      const entry: ProxiedRequest = {
        method,
        path: url.replace(/\?.*/, ''),
        client: headers['user-agent'] ?? '',
        authorization: headers.authorization,
        status: 0,
        bodyBytes: 0,
      };
      this.requests.push(entry);
      if (this.misbehave?.(incoming, response) === true) return;
      const upstream = request(
        `http://${target}${this.rewrite(url)}`,
        { method, headers },
        (answer) => {
          entry.status = answer.statusCode ?? 0;
          answer.on('data', (piece: Buffer) => {
            entry.bodyBytes += piece.length;
          });
          response.writeHead(entry.status, answer.headers);
          answer.pipe(response);
        },
      );
      upstream.on('error', () => response.destroy());
      incoming.pipe(upstream);
    };
    const keys = tls && {
      cert: readFileSync(tls.certificateFile),
      key: readFileSync(tls.keyFile),
      ...(wantsCertificate && { ca: tls.ca, requestCert: true }),
    };
    this.#server = keys === undefined ? createServer(listener) : createTlsServer(keys, listener);
  }

  static async start(
    target: string,
    init: {
      readonly host?: string;
      readonly tls?: Certificates;
      /** Whether clients need a certificate of the same authority. */
      readonly wantsCertificate?: boolean;
      readonly atEnd?: AtEnd;
    } = {},
  ): Promise<RegistryProxy> {
    const { host = '127.0.0.1', tls, wantsCertificate = false, atEnd = onTestFinished } = init;
    const proxy = new RegistryProxy({ target, tls, wantsCertificate });
    proxy.#server.listen(0, host);
    await once(proxy.#server, 'listening');
    proxy.address = `${host}:${(proxy.#server.address() as AddressInfo).port}`;
    atEnd(() => proxy.stop());
    return proxy;
  }

  /** Stops listening. */
  async stop(): Promise<void> {
    await stopServer(this.#server);
  }

  /** Bytes read of each blob, by digest. */
  blobBytes(): Readonly<Record<string, number>> {
    const bytes: Record<string, number> = {};
    for (const { method, path, status, bodyBytes } of this.requests) {
      const digest = /\/blobs\/(sha256:[0-9a-f]{64})$/.exec(path)?.[1];
      if (digest === undefined || method !== 'GET' || status >= 300) continue;
      bytes[digest] = (bytes[digest] ?? 0) + bodyBytes;
    }
    return bytes;
  }

  /** Requests by clients other than agents. */
  direct(): readonly ProxiedRequest[] {
    return this.requests.filter(({ client }) => client !== 'xylem');
  }
}
