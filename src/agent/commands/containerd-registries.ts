import { existsSync, readdirSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { registryName, registryServer } from '../../registry/reference.ts';
import { parsed, readText, tableAt, type Table } from './containerd-files.ts';

/** Most files that a configuration may import: a bound, not a limit of containerd. */
const FILES_MAX = 1_000;

/** The plugin that has the table `registry`, in each version of containerd's configuration. */
const PLUGINS = ['cri', 'io.containerd.grpc.v1.cri', 'io.containerd.cri.v1.images'] as const;

/** A setting of containerd's configuration, and the file that has it. */
export interface Setting {
  readonly file: string;
  /** As people write it: `registry.mirrors."docker.io"`. */
  readonly name: string;
  /** The registry or host that it is about; `*` for all. */
  readonly host: string;
  readonly value: Table;
}

/** What containerd's configuration says of registries to its CRI plugin. */
export interface RegistryConfig {
  /** The file that containerd reads first. */
  readonly file: string;
  /** Whether that file is there. */
  readonly exists: boolean;
  /** Where a setting of `registry` belongs so that it holds. */
  readonly place: {
    readonly file: string;
    /** The header of the table. */
    readonly table: string;
    /** Whether the file has that table, so that a second header would be an error. */
    readonly hasTable: boolean;
    /** Whether that table has an empty `config_path`, so that a second one would be an error. */
    readonly hasEmptyPath: boolean;
    /** Whether containerd 1.x takes all settings of the plugin from this file. */
    readonly isReplacing: boolean;
    /** Whether the file needs the line `version = 2` first. */
    readonly needsVersion: boolean;
  };
  /** The last that is set, in the order of the files. */
  readonly configPath?: string;
  /** A file with `config_path` whose table containerd 1.x replaces by that of `place.file`. */
  readonly replaced?: string;
  /** `registry.mirrors`: where a registry is asked for. */
  readonly mirrors: readonly Setting[];
  /** `registry.configs.*.tls`. */
  readonly tls: readonly Setting[];
  /** `registry.configs.*.auth` and `registry.auths`: credentials. */
  readonly auths: readonly Setting[];
}

/** One file of the configuration. */
interface Part {
  readonly file: string;
  readonly text: string;
  readonly version: unknown;
  readonly isEmpty: boolean;
  readonly plugins: Table;
}

/** The table `registry` of a plugin in a file. */
interface RegistryTable {
  readonly file: string;
  readonly plugin: string;
  readonly registry: Table;
}

/**
 * Reads containerd's configuration and the files that it imports, in containerd's order. Throws
 * ContainerdFileError for a file that is not TOML.
 */
export function readRegistryConfig(file: string): RegistryConfig {
  const parts = readParts(resolve(file));
  const tables = parts.flatMap(registryTables);
  const paths = tables.flatMap(({ file: from, registry: { config_path: path } }) =>
    typeof path === 'string' && path !== '' ? [{ from, path }] : [],
  );
  const last = paths.at(-1);
  const lastTable = tables.at(-1);
  const place = placeOf(resolve(file), parts, lastTable);
  const isReplaced = place.isReplacing && last !== undefined && last.from !== place.file;
  const settings = (key: string): readonly Setting[] =>
    tables.flatMap(({ file: from, registry }) =>
      Object.entries(tableAt(registry, key)).map(([host, value]) => ({
        ...{ file: from, name: `registry.${key}.${JSON.stringify(host)}`, host },
        value: Object(value) as Table,
      })),
    );
  const within = (key: 'tls' | 'auth'): readonly Setting[] =>
    settings('configs').flatMap(({ name, value, ...rest }) =>
      Object.hasOwn(value, key)
        ? [{ ...rest, name: `${name}.${key}`, value: tableAt(value, key) }]
        : [],
    );
  return {
    file: resolve(file),
    exists: parts.length > 0,
    place,
    ...(last !== undefined && { configPath: last.path }),
    ...(isReplaced && { replaced: last.from }),
    mirrors: settings('mirrors'),
    tls: within('tls'),
    auths: [
      ...within('auth'),
      ...settings('auths').map((each) => ({ ...each, host: hostOf(each.host) })),
    ],
  };
}

/**
 * What containerd's CRI plugin does for a registry (`_default`: for all) because of `mirrors` and
 * `configs.*.tls`, in the words of a hosts.toml; an empty table when it does nothing.
 */
export function hostsTableOf(config: RegistryConfig, registry: string | undefined): Table {
  const name = registry === undefined ? '*' : registryName(registry);
  const mirror =
    config.mirrors.findLast(({ host }) => host === name) ??
    config.mirrors.findLast(({ host }) => host === '*');
  const { endpoint = [] } = mirror?.value ?? {};
  const urls = (Array.isArray(endpoint) ? endpoint : [])
    .filter((url) => typeof url === 'string')
    .map((url) => (/^https?:\/\//.test(url) ? url : `${schemeOf(url)}://${url}`));
  const tlsOf = (host: string): Table =>
    tlsKeys(config.tls.findLast((each) => each.host === host)?.value ?? {});
  const server = registry === undefined ? undefined : registryServer(registry);
  const last = urls.at(-1);
  // containerd does not add the registry to endpoints that name it.
  const own = last !== undefined && hostOf(last) === name ? last : undefined;
  const hosts = (own === undefined ? urls : urls.slice(0, -1)).map((url) => [
    url,
    { capabilities: ['pull', 'resolve'], ...pathKeys(url), ...tlsOf(hostOf(url)) },
  ]);
  return {
    ...(own !== undefined && { server: own, ...pathKeys(own) }),
    ...(own === undefined && server !== undefined && urls.length > 0 && defaultServer(server)),
    ...(server !== undefined && tlsOf(own === undefined ? server : hostOf(own))),
    ...(hosts.length > 0 && { host: Object.fromEntries(hosts) as Table }),
  };
}

/** `mirrors` and `configs.*.tls`, neither of which may stand beside `config_path`. */
export function excludedSettings({ mirrors, tls }: RegistryConfig): readonly Setting[] {
  return [...mirrors, ...tls];
}

/** The host of a URL, or of a text that is one without the scheme. */
export function hostOf(url: string): string {
  return url.replace(/^\w+:\/\//, '').replace(/[/?#].*$/, '');
}

function readParts(first: string): readonly Part[] {
  const parts = new Map<string, Part>();
  const pending = [first];
  for (let file = pending.shift(); file !== undefined; file = pending.shift()) {
    if (parts.has(file) || parts.size >= FILES_MAX) continue;
    const text = readText(file);
    if (text === undefined) continue;
    const table = parsed(text, file);
    const { version, imports = [] } = table;
    const isEmpty = Object.keys(table).length === 0;
    parts.set(file, { file, text, version, isEmpty, plugins: tableAt(table, 'plugins') });
    for (const each of Array.isArray(imports) ? imports : []) {
      pending.push(...filesOf(resolve(dirname(file), String(each))));
    }
  }
  return [...parts.values()];
}

/** The files that a path with `*`, `?` and `[...]` names, in order. */
function filesOf(pattern: string): readonly string[] {
  return pattern.split('/').reduce<readonly string[]>(
    (folders, part) => {
      if (!/[*?[]/.test(part)) return folders.map((folder) => join(folder, part));
      const wanted = patternOf(part);
      return folders.flatMap((folder) =>
        namesIn(folder)
          .filter((name) => wanted.test(name))
          .map((name) => join(folder, name)),
      );
    },
    ['/'],
  );
}

function patternOf(part: string): RegExp {
  const source = part
    .replace(/[.+${}()|\\]|(?<!\[)\^/g, '\\$&')
    .replaceAll('*', '.*')
    .replaceAll('?', '.');
  try {
    return new RegExp(`^${source}$`, 's');
  } catch {
    return /(?!)/;
  }
}

function namesIn(folder: string): readonly string[] {
  return existsSync(folder) ? readdirSync(folder).sort() : [];
}

/** Those that containerd reads: a file that does not say its version may have any. */
function registryTables({ file, version, plugins }: Part): readonly RegistryTable[] {
  const names = version === 3 ? [PLUGINS[2]] : version === 2 ? [PLUGINS[1]] : PLUGINS;
  return names
    .filter((plugin) => Object.hasOwn(plugins, plugin))
    .map((plugin) => ({
      ...{ file, plugin },
      registry: tableAt(tableAt(plugins, plugin), 'registry'),
    }));
}

function placeOf(
  main: string,
  parts: readonly Part[],
  last: RegistryTable | undefined,
): RegistryConfig['place'] {
  const [first] = parts;
  const isNew = first === undefined || first.isEmpty;
  const version = isNew ? 2 : first.version;
  const plugin =
    last?.plugin ?? (version === 3 ? PLUGINS[2] : version === 2 ? PLUGINS[1] : PLUGINS[0]);
  const quoted = plugin === 'cri' ? plugin : JSON.stringify(plugin);
  const file = last?.file ?? main;
  const table = `[plugins.${quoted}.registry]`;
  const { text = '' } = parts.find((part) => part.file === file) ?? {};
  return {
    file,
    table,
    hasTable: !isToml(`${text}\n${table}\n`),
    hasEmptyPath: Object.hasOwn(last?.registry ?? {}, 'config_path'),
    isReplacing: last !== undefined && plugin !== PLUGINS[2],
    needsVersion: last === undefined && isNew,
  };
}

function isToml(text: string): boolean {
  try {
    parsed(text, '');
    return true;
  } catch {
    return false;
  }
}

/** containerd speaks http to this host itself, https to others. */
function schemeOf(host: string): 'http' | 'https' {
  return /^(localhost|127\.[0-9.]+|\[::1\])(:|\/|$)/.test(host) ? 'http' : 'https';
}

function defaultServer(server: string): Table {
  return schemeOf(server) === 'http' ? { server: `http://${server}` } : {};
}

/** An endpoint's path is all of the path; a hosts.toml would add `/v2` to it. */
function pathKeys(url: string): Table {
  const path = /^\w+:\/\/[^/]*(\/.*)?$/.exec(url)?.[1] ?? '';
  return path === '' || path.endsWith('/v2') ? {} : { override_path: true };
}

function tlsKeys({ ca_file, cert_file, key_file, insecure_skip_verify }: Table): Table {
  const path = (value: unknown): string | undefined =>
    typeof value === 'string' && value !== '' ? resolve('/', value) : undefined;
  const [ca, cert, key] = [ca_file, cert_file, key_file].map(path);
  return {
    ...(ca !== undefined && { ca: [ca] }),
    ...(cert !== undefined && { client: [[cert, key ?? cert]] }),
    ...(insecure_skip_verify === true && { skip_verify: true }),
  };
}

/** The registries that `mirrors` and `tls` are about; `*` for all. */
export function registriesIn(config: RegistryConfig): readonly string[] {
  const endpoints = config.mirrors.flatMap(({ value: { endpoint } }) =>
    (Array.isArray(endpoint) ? endpoint : []).map((url) => hostOf(String(url))),
  );
  const registries = [
    ...config.mirrors.map(({ host }) => host),
    ...config.tls.map(({ host }) => host).filter((host) => !endpoints.includes(host)),
  ].map(registryName);
  return [...new Set(registries)].sort();
}
