import { existsSync, readdirSync } from 'node:fs';
import { dirname, isAbsolute, join } from 'node:path';
import { registryName } from '../../registry/reference.ts';
import {
  BACKUP_SUFFIX,
  parsed,
  readText,
  tableAt,
  withoutPart,
  type Table,
} from './containerd-files.ts';

/** Folder whose hosts.toml applies to every registry without a folder of its own. */
export const DEFAULT_HOST = '_default';

const FILE = 'hosts.toml';

/**
 * In what the command adds to a hosts.toml whose folder it has made too: without the command
 * containerd would read another folder.
 */
export const MADE_FOLDER = '# xylem: made the folder too';

/**
 * Path of the registry's hosts.toml. containerd looks for `host_port_` first, then for `host:port`,
 * and reads the first folder that exists (remotes/docker/config, hostPaths()).
 */
export function hostsFile(dir: string, registry: string): string {
  const [first = '', ...others] = ownFolders(dir, registry);
  return join(existsSync(first) ? first : (others[0] ?? first), FILE);
}

/** Other folders below `dir`, each of which hides `_default` from its registry. */
export function otherHosts(dir: string): readonly string[] {
  if (!existsSync(dir)) return [];
  return readdirSync(dir, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() || entry.isSymbolicLink())
    .map((entry) => entry.name)
    .filter((name) => name !== DEFAULT_HOST && existsSync(join(dir, name)))
    .sort();
}

/** Whether the folder of a hosts.toml is there for more than what this command has added. */
export function standsAlone(file: string): boolean {
  const folder = dirname(file);
  if (!existsSync(folder)) return false;
  const text = readText(file) ?? '';
  const others = readdirSync(folder).filter(
    (name) => name !== FILE && name !== FILE + BACKUP_SUFFIX,
  );
  return !text.includes(MADE_FOLDER) || others.length > 0;
}

/**
 * The folder that containerd reads for a registry, of these folders of `config_path`; `without` is
 * taken for missing.
 */
export function folderRead(
  dirs: readonly string[],
  registry: string,
  without?: string,
): string | undefined {
  return dirs
    .flatMap((dir) => [...ownFolders(dir, registry), join(dir, DEFAULT_HOST)])
    .find((folder) => folder !== without && existsSync(folder));
}

/**
 * What containerd reads in a folder, in the words of a hosts.toml, but for what this command has
 * added; paths are absolute. Throws ContainerdFileError.
 */
export function folderTable(folder: string): Table {
  const file = join(folder, FILE);
  const table = parsed(withoutPart(readText(file) ?? ''), file);
  return absolute({ ...certificatesBeside(folder, table), ...table }, folder);
}

/** A file of the folder that says who may read what it says. */
export function folderSecret(folder: string): string | undefined {
  const file = join(folder, FILE);
  return existsSync(file) ? file : undefined;
}

/**
 * The certificate files of a folder that containerd takes as they are: where no hosts.toml names a
 * host. Of a file with `server` alone, containerd 1.x says that it is wrong, and takes them too.
 */
export function certificatesBeside(folder: string, table: Table): Table {
  if (Object.hasOwn(table, 'host') || !existsSync(folder)) return {};
  const names = readdirSync(folder, { withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => entry.name)
    .sort();
  const ca = names.filter((name) => name.endsWith('.crt'));
  const client = names
    .filter((name) => name.endsWith('.cert'))
    .map((name) => {
      const key = name.replace(/cert$/, 'key');
      return [name, names.includes(key) ? key : name];
    });
  return { ...(ca.length > 0 && { ca }), ...(client.length > 0 && { client }) };
}

/** What containerd does not take in a hosts.toml, so that it reads none of the file. */
export function hostsFault(table: Table): string | undefined {
  const tables = [['the server', table] as const, ...Object.entries(tableAt(table, 'host'))];
  for (const [name, host] of tables) {
    const { capabilities = [], ca = [], client = [], header = {} } = Object(host) as Table;
    const of = `${name} has`;
    const known = ['pull', 'resolve', 'push'];
    const isKnown = (each: unknown) => known.includes(String(each).toLowerCase());
    if (!Array.isArray(capabilities) || !capabilities.every(isKnown)) {
      return `${of} capabilities other than ${known.join(', ')}`;
    }
    if (typeof ca !== 'string' && !areStrings(ca)) return `${of} a \`ca\` that is no path`;
    if (typeof client !== 'string' && !Array.isArray(client)) {
      return `${of} a \`client\` that is no path`;
    }
    const values = Object.values(Object(header) as Table);
    if (!values.every((value) => typeof value === 'string' || areStrings(value))) {
      return `${of} a header that is no text`;
    }
  }
  return undefined;
}

/** Files that a hosts.toml names and that are not there: containerd then pulls nothing. */
export function missingFiles(table: Table, folder: string): readonly string[] {
  return [table, ...Object.values(tableAt(table, 'host'))]
    .flatMap((host) => {
      const { ca, client } = absolute(Object(host) as Table, folder);
      return [ca, client].flat(2).filter((path) => typeof path === 'string' && path !== '');
    })
    .map(String)
    .filter((path) => !existsSync(path));
}

/** Hosts that a hosts.toml gives credentials, by a header; `''` for the server. */
export function credentialHosts(table: Table): readonly string[] {
  const hosts = [['', table] as const, ...Object.entries(tableAt(table, 'host'))];
  return hosts
    .filter(([, host]) =>
      Object.keys(tableAt(Object(host) as Table, 'header')).some(
        (name) => name.toLowerCase() === 'authorization',
      ),
    )
    .map(([name]) => name);
}

function ownFolders(dir: string, registry: string): readonly string[] {
  if (registry === DEFAULT_HOST) return [join(dir, DEFAULT_HOST)];
  const name = registryName(registry);
  const first = name.replace(/:([0-9]+)$/, '_$1_');
  return [...new Set([first, name])].map((each) => join(dir, each));
}

function absolute(table: Table, folder: string): Table {
  const path = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(path);
    return typeof value === 'string' && value !== '' && !isAbsolute(value)
      ? join(folder, value)
      : value;
  };
  const { ca, client } = table;
  const hosts = Object.entries(tableAt(table, 'host')).map(([name, host]) => [
    name,
    absolute(Object(host) as Table, folder),
  ]);
  return {
    ...table,
    ...(ca !== undefined && { ca: path(ca) }),
    ...(client !== undefined && { client: path(client) }),
    ...(hosts.length > 0 && { host: Object.fromEntries(hosts) as Table }),
  };
}

function areStrings(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every((each) => typeof each === 'string');
}
