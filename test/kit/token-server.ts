import { createSign, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { type IncomingMessage } from 'node:http';
import { text } from 'node:stream/consumers';
import type { UserCredentials } from '../../src/registry/auth/auth.ts';
import type { Certificates } from './certificates.ts';
import { startServer } from './servers.ts';

interface Options {
  /** Accepted as a refresh token (OAuth 2, POST). */
  readonly identityToken?: string;
}

/**
 * A token server for one user on loopback, by the token specification of distribution, for the
 * `token` of `startDockerRegistry()`. It ends with the running test. `asked`: service and scope of
 * each issued token; with `POST` before them if it was issued for an identity token.
 */
export async function startTokenServer(
  certificates: Certificates,
  user: UserCredentials,
  options: Options = {},
) {
  const asked: string[] = [];
  const issue = (scopes: string): string => {
    const access = scopes.split(' ').map((scope) => {
      const [type, name, actions = ''] = scope.split(':');
      return { type, name, actions: actions.split(',') };
    });
    return signToken(certificates, user.username, access);
  };
  const address = await startServer((request, response) => {
    const answer = async (): Promise<void> => {
      const form = await granted(request, user, options);
      if (form === undefined) {
        response.writeHead(request.method === 'POST' ? 400 : 401).end('{}');
        return;
      }
      const isPost = request.method === 'POST';
      const scope = form.getAll('scope').join(' ');
      asked.push(`${isPost ? 'POST ' : ''}${form.get('service')} ${scope}`);
      const field = isPost ? 'access_token' : 'token';
      response.end(JSON.stringify({ [field]: issue(scope), expires_in: 300 }));
    };
    void answer();
  });
  const realm = `http://${address}/token`;
  const rootcertbundle = certificates.certificateFile;
  return { asked, token: { realm, service: 'tests', issuer: 'rig', rootcertbundle }, issue };
}

/** The requested access, if the server grants it. */
async function granted(
  request: IncomingMessage,
  user: UserCredentials,
  { identityToken }: Options,
): Promise<URLSearchParams | undefined> {
  if (request.method === 'POST') {
    const form = new URLSearchParams(await text(request));
    const isRefresh = form.get('grant_type') === 'refresh_token' && form.get('client_id') !== null;
    const isKnown = identityToken !== undefined && form.get('refresh_token') === identityToken;
    return isRefresh && isKnown ? form : undefined;
  }
  const basic = `Basic ${Buffer.from(`${user.username}:${user.password}`).toString('base64')}`;
  if (request.headers.authorization !== basic) return undefined;
  return new URL(request.url ?? '', 'http://server').searchParams;
}

/** A JWT with the signer's certificate in it, as docker-registry checks it. */
function signToken(certificates: Certificates, subject: string, access: readonly object[]): string {
  const der = new X509Certificate(readFileSync(certificates.certificateFile)).raw;
  const nowSeconds = Math.floor(Date.now() / 1000);
  const times = { nbf: nowSeconds - 60, iat: nowSeconds, exp: nowSeconds + 300 };
  const parts = [
    { typ: 'JWT', alg: 'ES256', x5c: [der.toString('base64')] },
    { iss: 'rig', sub: subject, aud: 'tests', jti: 'one', ...times, access },
  ];
  const signed = parts.map((part) => Buffer.from(JSON.stringify(part)).toString('base64url'));
  const key = readFileSync(certificates.keyFile, 'utf8');
  const signature = createSign('sha256')
    .update(signed.join('.'))
    .sign({ key, dsaEncoding: 'ieee-p1363' });
  return [...signed, signature.toString('base64url')].join('.');
}
