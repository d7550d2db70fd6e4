import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const run = promisify(execFile);

/**
 * Puts the image `layout:tag` of an OCI layout into a registry without TLS, as
 * `host:port/name:tag`. Its digests stay.
 */
export async function pushLayout(
  from: string,
  to: string,
  login?: { readonly username: string; readonly password: string },
): Promise<void> {
  const args = ['--insecure-policy', 'copy', '--preserve-digests', '--dest-tls-verify=false'];
  const creds = login === undefined ? [] : ['--dest-creds', `${login.username}:${login.password}`];
  await run('skopeo', [...args, ...creds, `oci:${from}`, `docker://${to}`]);
}
