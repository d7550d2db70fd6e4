import { execFileSync } from 'node:child_process';
import { createPrivateKey, sign, X509Certificate, type KeyObject } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';

export interface TokenServerInit {
  /** Users and passwords; none: everybody gets tokens, and whoever shows credentials is refused. */
  readonly users?: Readonly<Record<string, string>>;
  /** What the answers claim as the life of a token, in seconds. */
  readonly expiresInSeconds?: number;
  /** Name of the field that holds the token. */
  readonly field?: 'token' | 'access_token';
}

const SERVICE = 'test registry';
const ISSUER = 'test issuer';
const TOKEN_LIFE_SECONDS = 300;

/**
 * A token server as docker-registry's `auth.token` wants it: signs what was asked for (JWT, ES256, certificate in `x5c`).
 * The next `staleCount` tokens that it gives are past their end: the registry will refuse them.
 */
export class TokenServer {
  readonly #server = createServer((request, response) => this.#answer(request, response));
  readonly #init: TokenServerInit;
  readonly #key: KeyObject;
  readonly #certificate: X509Certificate;
  readonly #bundle: string;
  /** Scopes of the requests so far. */
  readonly scopes: string[] = [];
  staleCount = 0;

  private constructor(folder: string, init: TokenServerInit) {
    const keyFile = join(folder, 'token.key');
    this.#bundle = join(folder, 'token.crt');
    execFileSync(
      'openssl',
      [
        ...['req', '-x509', '-days', '2', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256'],
        ...['-nodes', '-subj', '/CN=test issuer', '-keyout', keyFile, '-out', this.#bundle],
      ],
      { stdio: 'pipe' },
    );
    this.#key = createPrivateKey(readFileSync(keyFile));
    this.#certificate = new X509Certificate(readFileSync(this.#bundle));
    this.#init = init;
  }

  /** Keeps its key in the folder, which is the caller's to remove. */
  static async start(folder: string, init: TokenServerInit): Promise<TokenServer> {
    const server = new TokenServer(folder, init);
    server.#server.listen(0, '127.0.0.1');
    await once(server.#server, 'listening');
    return server;
  }

  /** The section `auth.token` of the registry's configuration. */
  get registryConfig() {
    const { port } = this.#server.address() as AddressInfo;
    return {
      realm: `http://127.0.0.1:${port}/token`,
      service: SERVICE,
      issuer: ISSUER,
      rootcertbundle: this.#bundle,
    };
  }

  async stop(): Promise<void> {
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.#server.closeAllConnections();
    await closed;
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const url = new URL(request.url ?? '/', 'http://token.invalid');
    const scopes = url.searchParams.getAll('scope');
    this.scopes.push(scopes.join(' '));
    if (!this.#accepts(request.headers.authorization)) {
      response.writeHead(401, { 'www-authenticate': 'Basic realm="tokens"' });
      response.end('{}');
      return;
    }
    const { expiresInSeconds, field } = this.#init;
    const body = {
      [field ?? 'token']: this.#sign(scopes),
      ...(expiresInSeconds !== undefined && { expires_in: expiresInSeconds }),
    };
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(JSON.stringify(body));
  }

  #accepts(authorization: string | undefined): boolean {
    const users = Object.entries(this.#init.users ?? {});
    if (users.length === 0) return authorization === undefined;
    return users.some(
      ([user, password]) => authorization === `Basic ${btoa(`${user}:${password}`)}`,
    );
  }

  #sign(scopes: readonly string[]): string {
    const nowSeconds = Math.floor(Date.now() / 1000);
    const isStale = this.staleCount > 0;
    if (isStale) this.staleCount--;
    // The registry forgives a minute.
    const issuedSeconds = isStale ? nowSeconds - 2 * TOKEN_LIFE_SECONDS : nowSeconds;
    const claims = {
      iss: ISSUER,
      aud: SERVICE,
      iat: issuedSeconds,
      nbf: issuedSeconds - 10,
      exp: issuedSeconds + TOKEN_LIFE_SECONDS,
      jti: String(this.scopes.length),
      access: scopes.map((scope) => {
        const [type = '', name = '', actions = ''] = scope.split(':');
        return { type, name, actions: actions.split(',') };
      }),
    };
    const header = { typ: 'JWT', alg: 'ES256', x5c: [this.#certificate.raw.toString('base64')] };
    const text = [header, claims].map((part) => base64url(JSON.stringify(part))).join('.');
    const key = { key: this.#key, dsaEncoding: 'ieee-p1363' } as const;
    return `${text}.${base64url(sign('sha256', Buffer.from(text), key))}`;
  }
}

function base64url(data: string | Uint8Array): string {
  return Buffer.from(data as string).toString('base64url');
}
