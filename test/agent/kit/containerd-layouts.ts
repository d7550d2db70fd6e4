import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import type { Certificates } from '../../kit/certificates.ts';

/** What a layout is made with. */
export interface Site {
  /** `host:port` of the registry, as references name it. */
  readonly registry: string;
  readonly tls: Certificates;
}

/** A file: its text, or a file to copy, or what a link says. */
type Entry =
  | { readonly text: string; readonly mode?: number; readonly uid?: number }
  | { readonly copy: string }
  | { readonly link: string };

/** Files that containerd reads for a registry, by their paths below the folder of config_path. */
export interface Layout {
  readonly name: string;
  /** What the registry asks for. */
  readonly wants?: 'certificate' | 'header' | 'path';
  /** The registry is not asked before the command for this registry, but for all. */
  readonly isDefault?: boolean;
  readonly files: (site: Site) => Readonly<Record<string, Entry>>;
}

/** The header that the registry of some layouts wants. */
export const HEADER = 'x-team';

/** Where the registry of some layouts is: not at `/v2`. */
export const PATH = '/cache';

const host = (url: string, ...lines: readonly string[]): string =>
  [`[host."${url}"]`, '  capabilities = ["pull", "resolve"]', ...lines, ''].join('\n');

/** Ways of telling containerd about a registry, each of which works without an agent. */
export const LAYOUTS: readonly Layout[] = [
  {
    name: 'ca.crt alone',
    files: ({ registry, tls }) => ({ [`${registry}/ca.crt`]: { copy: tls.caFile } }),
  },
  {
    name: 'an authority of another name in host_port_',
    files: ({ registry, tls }) => ({
      [`${registry.replace(':', '_')}_/site authority.crt`]: { copy: tls.caFile },
    }),
  },
  {
    name: 'ca.crt, and certificate and key of the client',
    wants: 'certificate',
    files: ({ registry, tls }) => ({
      [`${registry}/ca.crt`]: { copy: tls.caFile },
      [`${registry}/client.cert`]: { copy: tls.certificateFile },
      [`${registry}/client.key`]: { copy: tls.keyFile },
    }),
  },
  {
    name: 'ca.crt, and one file of the client for both',
    wants: 'certificate',
    files: ({ registry, tls }) => ({
      [`${registry}/ca.crt`]: { copy: tls.caFile },
      [`${registry}/both.cert`]: {
        text: readFileSync(tls.certificateFile, 'utf8') + readFileSync(tls.keyFile, 'utf8'),
        mode: 0o600,
      },
    }),
  },
  {
    name: 'an empty hosts.toml beside ca.crt',
    files: ({ registry, tls }) => ({
      [`${registry}/ca.crt`]: { copy: tls.caFile },
      [`${registry}/hosts.toml`]: { text: '', mode: 0o640 },
    }),
  },
  {
    name: 'a hosts.toml without a host beside ca.crt',
    files: ({ registry, tls }) => ({
      [`${registry}/ca.crt`]: { copy: tls.caFile },
      [`${registry}/hosts.toml`]: { text: `server = "https://${registry}"` },
    }),
  },
  {
    name: '_default with ca.crt',
    files: ({ tls }) => ({ '_default/ca.crt': { copy: tls.caFile } }),
  },
  {
    name: '_default with ca.crt and client certificate, for --default',
    wants: 'certificate',
    isDefault: true,
    files: ({ tls }) => ({
      '_default/ca.crt': { copy: tls.caFile },
      '_default/client.cert': { copy: tls.certificateFile },
      '_default/client.key': { copy: tls.keyFile },
    }),
  },
  {
    name: '_default with a hosts.toml that holds a secret and names a file beside it',
    wants: 'header',
    files: ({ registry, tls }) => ({
      '_default/site.pem': { copy: tls.caFile },
      '_default/hosts.toml': {
        text:
          `server = "https://${registry}"\nca = "site.pem"\n\n[header]\n  ${HEADER} = "a"\n\n` +
          host('http://127.0.0.1:9'),
        mode: 0o600,
        uid: 1000,
      },
    }),
  },
  {
    name: 'hosts.toml with a header, of another user, for few eyes',
    wants: 'header',
    files: ({ registry, tls }) => ({
      [`${registry}/ca.crt`]: { copy: tls.caFile },
      [`${registry}/hosts.toml`]: {
        text: host(`https://${registry}`, '  ca = ["ca.crt"]', `  header = {${HEADER} = ["a"]}`),
        mode: 0o600,
        uid: 1000,
      },
    }),
  },
  {
    name: 'hosts.toml with override_path',
    wants: 'path',
    files: ({ registry, tls }) => ({
      [`${registry}/hosts.toml`]: {
        text: host(
          `https://${registry}${PATH}`,
          '  override_path = true',
          `  ca = "${tls.caFile}"`,
        ),
      },
    }),
  },
  {
    name: 'hosts.toml with several hosts, the first of which is away, and skip_verify',
    files: ({ registry }) => ({
      [`${registry}/hosts.toml`]: {
        text:
          `server = "https://${registry}"\r\nskip_verify = true\r\n\r\n` +
          host('http://127.0.0.1:9') +
          host('https://127.0.0.1:9').trimEnd(),
        mode: 0o444,
      },
    }),
  },
  {
    name: 'hosts.toml with a table of all hosts',
    files: ({ registry, tls }) => ({
      [`${registry}/hosts.toml`]: {
        text: `[host]\n  ${host(`https://${registry}`, `  ca = "${tls.caFile}"`)}`,
      },
    }),
  },
  {
    name: 'hosts.toml and its folder as links',
    files: ({ registry, tls }) => ({
      'kept/site/hosts.toml': { link: '../managed.toml' },
      'kept/managed.toml': {
        text: host(`https://${registry}`, `  ca = "${tls.caFile}"`),
        mode: 0o640,
        uid: 1000,
      },
      [registry]: { link: 'kept/site' },
    }),
  },
  {
    name: 'a folder as a link, with ca.crt as a link',
    files: ({ registry, tls }) => ({
      'kept/site/ca.crt': { link: tls.caFile },
      [registry]: { link: 'kept/site' },
    }),
  },
];

/** Makes the files of a layout. */
export function lay(dir: string, files: Readonly<Record<string, Entry>>): void {
  for (const [name, entry] of Object.entries(files)) {
    const path = join(dir, name);
    mkdirSync(dirname(path), { recursive: true });
    if ('link' in entry) symlinkSync(entry.link, path);
    else if ('copy' in entry) copyFileSync(entry.copy, path);
    else {
      writeFileSync(path, entry.text);
      chownSync(path, entry.uid ?? 0, entry.uid ?? 0);
      chmodSync(path, entry.mode ?? 0o644);
    }
  }
}

/** All that is below a folder, as `--remove` has to leave it. */
export function shapeOf(folder: string): Readonly<Record<string, unknown>> {
  if (!existsSync(folder)) return {};
  const names = readdirSync(folder, { recursive: true }) as string[];
  return Object.fromEntries(
    names.sort().map((name) => {
      const path = join(folder, name);
      const { mode, uid, gid, ino } = lstatSync(path);
      const what = lstatSync(path).isSymbolicLink()
        ? readlinkSync(path)
        : lstatSync(path).isFile() && readFileSync(path).toString('base64');
      return [name, [mode, uid, gid, ino, what]];
    }),
  );
}
