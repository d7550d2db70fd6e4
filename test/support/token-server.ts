import { createSign, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { startServer } from '../registry/rig.ts';
import type { Certificates } from './certificates.ts';

/** A token server for one user, as the token specification of distribution has it; ends with the running test. */
export async function startTokenServer(
  certificates: Certificates,
  user: { readonly username: string; readonly password: string },
) {
  const asked: string[] = [];
  const basic = `Basic ${Buffer.from(`${user.username}:${user.password}`).toString('base64')}`;
  const address = await startServer((request, response) => {
    const { searchParams } = new URL(request.url ?? '', 'http://server');
    if (request.headers.authorization !== basic) {
      response.writeHead(401).end();
      return;
    }
    const scope = searchParams.get('scope') ?? '';
    asked.push(`${searchParams.get('service')} ${scope}`);
    const [type, name, actions = ''] = scope.split(':');
    const access = [{ type, name, actions: actions.split(',') }];
    response.end(
      JSON.stringify({ token: signToken(certificates, user.username, access), expires_in: 300 }),
    );
  });
  const realm = `http://${address}/token`;
  const rootcertbundle = certificates.certificateFile;
  return { asked, token: { realm, service: 'tests', issuer: 'rig', rootcertbundle } };
}

/** A JWT with the signer's certificate in it, as docker-registry checks it. */
function signToken(
  certificates: Certificates,
  username: string,
  access: readonly object[],
): string {
  const der = new X509Certificate(readFileSync(certificates.certificateFile)).raw;
  const nowSeconds = Math.floor(Date.now() / 1000);
  const times = { nbf: nowSeconds - 60, iat: nowSeconds, exp: nowSeconds + 300 };
  const parts = [
    { typ: 'JWT', alg: 'ES256', x5c: [der.toString('base64')] },
    { iss: 'rig', sub: username, aud: 'tests', jti: 'one', ...times, access },
  ];
  const text = parts.map((part) => Buffer.from(JSON.stringify(part)).toString('base64url'));
  const key = readFileSync(certificates.keyFile, 'utf8');
  const signature = createSign('sha256')
    .update(text.join('.'))
    .sign({ key, dsaEncoding: 'ieee-p1363' });
  return [...text, signature.toString('base64url')].join('.');
}
