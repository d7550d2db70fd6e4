import { existsSync, realpathSync } from 'node:fs';
import { resolve } from 'node:path';
import { registryName } from '../../registry/reference.ts';
import { DEFAULT_HOST } from './containerd-folders.ts';
import {
  excludedSettings,
  hostsTableOf,
  registriesIn,
  type RegistryConfig,
} from './containerd-registries.ts';

/** The path that containerd's own configuration makes it read. */
export interface ConfigPathCheck {
  readonly file: string;
  /** Undefined when no file sets it. */
  readonly configPath?: string;
  /** Advice to the user; absent when there is nothing to do. */
  readonly advice?: string;
}

/**
 * Checks whether containerd reads `dir`: its CRI plugin does so only when configured, and does not
 * start with settings that exclude each other. `registries` are those whose hosts.toml has what
 * these settings say.
 */
export function checkConfigPath(
  config: RegistryConfig,
  dir: string,
  registries: readonly string[] = [],
): ConfigPathCheck {
  const { file, configPath, replaced, place } = config;
  const facts = { file, ...(configPath !== undefined && { configPath }) };
  const removal = removalAdvice(config, registries);
  if (configPath === undefined) {
    const there = config.exists ? `${file} has no config_path` : `${file} does not exist`;
    const advice =
      removal === undefined
        ? `${there}: ${additionAdvice(config, dir)}`
        : `${there}, but ${removal} Only then ${additionAdvice(config, dir)}`;
    return { ...facts, advice };
  }
  if (removal !== undefined) {
    const both = 'config_path and settings that containerd refuses beside it';
    return { ...facts, advice: `${file} sets ${both}: ${removal}` };
  }
  if (!foldersOf(configPath).some((folder) => isSame(folder, dir))) {
    const advice =
      `config_path in ${file} is ${JSON.stringify(configPath)}, not ${dir}: ` +
      'name the same folder in --dir';
    return { ...facts, advice };
  }
  if (replaced === undefined) return facts;
  const advice =
    `${replaced} sets config_path, but containerd 1.x takes the whole plugin of ${place.table} ` +
    `from ${place.file}, which is read later: ${additionAdvice(config, dir)}`;
  return { ...facts, advice };
}

/** Why containerd would not look at the settings of its CRI plugin in the first file. */
export function pluginAdvice({ file, place }: RegistryConfig): readonly string[] {
  if (place.file === file || !place.isReplacing) return [];
  return [
    `containerd 1.x takes all settings of its CRI plugin from ${place.file}, which ${file} ` +
      'imports: name that file in --containerd-config',
  ];
}

/** The folders that containerd reads, in its order, when `dir` is one of them; else that alone. */
export function foldersRead({ configPath = '' }: RegistryConfig, dir: string): readonly string[] {
  const folders = foldersOf(configPath);
  const at = folders.findIndex((folder) => isSame(folder, dir));
  return at < 0 ? [dir] : folders.with(at, dir);
}

/** What to say of credentials that containerd sends to these registries, past the agent. */
export function credentialAdvice(
  config: RegistryConfig,
  {
    mirror,
    registries,
    files,
  }: {
    readonly mirror: string;
    readonly registries: readonly string[];
    /** Each hosts.toml, and the hosts that it gives credentials. */
    readonly files: readonly { readonly file: string; readonly hosts: readonly string[] }[];
  },
): readonly string[] {
  const own = new URL(mirror).host;
  const hosts = [...new Set(config.auths.map(({ host }) => host))];
  const names = registries.map(registryName);
  const isAll = registries.includes(DEFAULT_HOST);
  const others = hosts.filter(
    (host) => host !== own && (isAll || names.includes(registryName(host))),
  );
  const ways =
    'docs/MIRROR.md, "Private images with a mirror in between", has the ways into the tree: ';
  return [
    ...(others.length > 0 && !hosts.includes(own)
      ? [
          `containerd has credentials for ${others.join(', ')} in its configuration, and sends ` +
            'them there alone: pulls with them go past the agent. ' +
            `${ways}pull secrets of pods, the same credentials in ` +
            `registry.configs.${JSON.stringify(own)}.auth, or a header for the agent in hosts.toml`,
        ]
      : []),
    ...files
      .filter(({ hosts: with_ }) => with_.length > 0 && !with_.includes(mirror))
      .map(
        ({ file, hosts: with_ }) =>
          `${file} gives ${with_.map((host) => host || 'the server').join(', ')} an ` +
          'Authorization header, and not the agent: pulls with it go past the agent. ' +
          `${ways}the same header below [host.${JSON.stringify(mirror)}.header], pull secrets ` +
          `of pods, or credentials in registry.configs.${JSON.stringify(own)}.auth`,
      ),
  ];
}

function removalAdvice(config: RegistryConfig, registries: readonly string[]): string | undefined {
  const excluded = excludedSettings(config);
  if (excluded.length === 0) return undefined;
  const files = [...new Set(excluded.map(({ file }) => file))];
  const lists = files.map((file) => {
    const names = excluded.filter((each) => each.file === file).map(({ name }) => name);
    return `${[...new Set(names)].join(', ')} of ${file}`;
  });
  const named = new Set(registries.map((name) => (name === DEFAULT_HOST ? '*' : name)));
  const about = registriesIn(config).filter(
    (name) => Object.keys(hostsTableOf(config, name === '*' ? undefined : name)).length > 0,
  );
  const done = about
    .filter((name) => named.has(name))
    .map((name) => (name === '*' ? DEFAULT_HOST : name));
  const left = about
    .filter((name) => !named.has(name))
    .map((name) => (name === '*' ? '--default' : `--registry ${name}`));
  const where = done.length === 0 ? '' : ` The hosts.toml of ${done.join(', ')} has what they say.`;
  const first =
    left.length === 0
      ? ''
      : ` Before that run this command with ${left.join(' ')}, so that hosts.toml has it too.`;
  return (
    `containerd's CRI plugin does not start with config_path beside ${lists.join(', and ')}. ` +
    `First take these out; registry.configs.*.auth may stay.${where}${first}`
  );
}

/** A second header of a table, or a second key, would keep containerd from starting. */
function additionAdvice({ place }: RegistryConfig, dir: string): string {
  const lines = [
    ...(place.needsVersion ? ['version = 2'] : []),
    ...(place.hasTable ? [] : [place.table]),
    `  config_path = ${JSON.stringify(resolve(dir))}`,
  ];
  const where = place.hasTable ? `the table ${place.table} of ${place.file}` : place.file;
  const old = place.hasEmptyPath ? ', in place of its empty config_path' : '';
  return (
    `add\n\n${lines.map((each) => `    ${each}`).join('\n')}\n\n` +
    `to ${where}${old}, and restart containerd once; ` +
    'later changes of hosts.toml need no restart'
  );
}

function foldersOf(configPath: string): readonly string[] {
  return configPath.split(':').filter((folder) => folder !== '');
}

function isSame(a: string, b: string): boolean {
  const real = (path: string): string => (existsSync(path) ? realpathSync(path) : resolve(path));
  return real(a) === real(b);
}
