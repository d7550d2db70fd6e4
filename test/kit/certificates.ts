import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { join } from 'node:path';

export interface Certificates {
  /** PEM of the authority. */
  readonly ca: string;
  readonly caFile: string;
  /** Certificate of the server, signed by the authority. */
  readonly certificateFile: string;
  readonly keyFile: string;
}

/**
 * Makes a fresh authority and the certificate of a server with openssl, in the folder. The server's
 * is good for a client too.
 */
export function makeCertificates(folder: string, address = '127.0.0.1'): Certificates {
  const path = (name: string): string => join(folder, name);
  const openssl = (...args: string[]): void => {
    execFileSync('openssl', args, { cwd: folder, stdio: 'pipe' });
  };
  const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  openssl('req', '-x509', ...newKey, '-keyout', 'ca.key', '-out', 'ca.pem', '-subj', '/CN=test');
  openssl('req', ...newKey, '-keyout', 'server.key', '-out', 'server.csr', '-subj', '/CN=server');
  writeFileSync(path('names'), `subjectAltName=${isIP(address) === 0 ? 'DNS' : 'IP'}:${address}`);
  const signer = ['-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-extfile', 'names'];
  openssl('x509', '-req', '-in', 'server.csr', ...signer, '-out', 'server.pem');
  return {
    ca: readFileSync(path('ca.pem'), 'utf8'),
    caFile: path('ca.pem'),
    certificateFile: path('server.pem'),
    keyFile: path('server.key'),
  };
}
