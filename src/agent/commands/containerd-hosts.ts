import { existsSync, readdirSync } from 'node:fs';
import { isDeepStrictEqual } from 'node:util';
import { join } from 'node:path';
import { BLOCK_IMAGES_HEADER, BLOCK_IMAGES_VALUE } from '../../edge/mirror/block-images.ts';
import { registryName } from '../../registry/reference.ts';
import {
  BACKUP_SUFFIX,
  changeTo,
  ContainerdFileError,
  parsed,
  PART_BEGIN,
  PART_END,
  readText,
  tableAt,
  withoutPart,
  withPartAtEnd,
  type FileChange,
  type Table,
} from './containerd-files.ts';

/** Folder whose hosts.toml applies to every registry without a folder of its own. */
export const DEFAULT_HOST = '_default';

const FILE = 'hosts.toml';

/** The planned change of one hosts.toml. */
export interface HostsChange extends FileChange {
  /** The registry, or `_default`. */
  readonly registry: string;
}

interface HostsInit {
  /** containerd's `config_path`. */
  readonly dir: string;
  /** As image references name it, or `_default`. */
  readonly registry: string;
}

/**
 * Plans the change that makes containerd ask the mirror before the registry. Changes nothing
 * itself. Throws ContainerdFileError.
 */
export function planMirror(
  init: HostsInit & {
    readonly mirror: string;
    readonly server?: string;
    /** Whether a snapshotter here mounts block images. */
    readonly blockImages?: boolean;
  },
): HostsChange {
  const { registry, mirror, blockImages = false } = init;
  const file = hostsFile(init);
  const before = readText(file);
  const rest = withoutPart(before ?? '');
  const known = parsed(rest, file);
  if (Object.hasOwn(tableAt(known, 'host'), mirror)) {
    const note = `${mirror} is already in the file; this command did not write it`;
    return { registry, file, action: 'none', ...(before !== undefined && { text: before }), note };
  }
  const server = Object.hasOwn(known, 'server') ? undefined : init.server;
  const wanted = { mirror, server, blockImages };
  const text = withPart(rest, partOf(wanted));
  checkResult(text, { file, known, ...wanted });
  return { registry, ...changeTo(text, { file, before, rest }) };
}

/** Plans the change that undoes `planMirror()`; makes none itself. Throws ContainerdFileError. */
export function planRemoval(init: HostsInit): HostsChange {
  const { registry } = init;
  const file = hostsFile(init);
  const before = readText(file);
  const rest = withoutPart(before ?? '');
  if (before === undefined || rest === before) {
    return { registry, file, action: 'none', ...(before !== undefined && { text: before }) };
  }
  const backup = file + BACKUP_SUFFIX;
  const kept = readText(backup);
  if (kept?.trim() === rest.trim() && kept !== undefined) {
    return { registry, file, action: 'restore', text: kept, backup };
  }
  if (kept !== undefined) {
    const note = `edited since: the edits stay; ${backup} has the contents before them`;
    return { registry, file, action: 'change', text: rest, note };
  }
  if (rest.trim() !== '') return { registry, file, action: 'change', text: rest };
  return { registry, file, action: 'delete' };
}

/** Other folders below `dir`, each of which hides `_default` from its registry. */
export function otherHosts(dir: string): readonly string[] {
  if (!existsSync(dir)) return [];
  return readdirSync(dir, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && entry.name !== DEFAULT_HOST)
    .map((entry) => entry.name)
    .sort();
}

/** The path that containerd's own configuration makes it read. */
export interface ConfigPathCheck {
  readonly file: string;
  /** Undefined when the file does not set it. */
  readonly configPath?: string;
  /** Advice to the user; absent when there is nothing to do. */
  readonly advice?: string;
}

/**
 * Checks whether containerd reads `dir`: its CRI plugin does so only when configured. Throws
 * ContainerdFileError for a file that is not TOML.
 */
export function checkConfigPath(file: string, dir: string): ConfigPathCheck {
  const text = readText(file);
  const plugins = tableAt(parsed(text ?? '', file), 'plugins');
  const [name, plugin] =
    Object.entries(plugins).find(([key]) => key === 'io.containerd.cri.v1.images') ??
    Object.entries(plugins).find(([key]) => key === 'io.containerd.grpc.v1.cri') ??
    [];
  const registry = tableAt(Object(plugin) as Table, 'registry');
  const configPath = registry['config_path'];
  const table = `[plugins."${name ?? 'io.containerd.grpc.v1.cri'}".registry]`;
  if (typeof configPath !== 'string' || configPath === '') {
    const there = text === undefined ? `${file} does not exist` : `${file} has no config_path`;
    const advice =
      `${there}: unless another file sets it, add\n\n` +
      `    ${table}\n      config_path = "${dir}"\n\n` +
      'to it, and restart containerd once; later changes of hosts.toml need no restart';
    return { file, advice };
  }
  if (!configPath.split(':').includes(dir)) {
    const advice =
      `config_path in ${file} is ${JSON.stringify(configPath)}, not ${dir}: ` +
      'name the same folder in --dir';
    return { file, configPath, advice };
  }
  if (Object.hasOwn(registry, 'mirrors')) {
    const advice =
      `${file} sets both config_path and registry.mirrors in ${table}: ` +
      'containerd refuses that, so remove the mirrors';
    return { file, configPath, advice };
  }
  return { file, configPath };
}

/**
 * Path of the registry's hosts.toml. containerd looks for `host_port_` first, then for `host:port`,
 * and reads the first folder that exists (remotes/docker/config, hostPaths()).
 */
function hostsFile({ dir, registry }: HostsInit): string {
  if (registry === DEFAULT_HOST) return join(dir, DEFAULT_HOST, FILE);
  const name = registryName(registry);
  const first = name.replace(/:([0-9]+)$/, '_$1_');
  return join(dir, existsSync(join(dir, first)) ? first : name, FILE);
}

/** What the command writes. */
interface Part {
  readonly mirror: string;
  readonly server: string | undefined;
  readonly blockImages: boolean;
}

function partOf({ mirror, server, blockImages }: Part): string {
  const name = `host.${JSON.stringify(mirror)}`;
  return [
    PART_BEGIN,
    ...(server === undefined ? [] : [`server = ${JSON.stringify(server)}`, '']),
    `[${name}]`,
    '  capabilities = ["pull", "resolve"]',
    ...(blockImages
      ? [`  [${name}.header]`, `    ${BLOCK_IMAGES_HEADER} = "${BLOCK_IMAGES_VALUE}"`]
      : []),
    PART_END,
    '',
  ].join('\n');
}

/**
 * Inserts the part after the top-level keys and before the first table: containerd asks hosts in
 * the order of the file.
 */
function withPart(rest: string, part: string): string {
  const at = rest.search(/^[ \t]*\[/m);
  return at < 0 ? withPartAtEnd(rest, part) : rest.slice(0, at) + part + rest.slice(at);
}

/**
 * Checks the result, whatever the layout of the file: it holds everything that it held before, and
 * the mirror comes first.
 */
function checkResult(
  text: string,
  to: Part & { readonly file: string; readonly known: Table },
): void {
  const { file, known, mirror, server, blockImages } = to;
  const result = parsed(text, file);
  const header = { [BLOCK_IMAGES_HEADER]: BLOCK_IMAGES_VALUE };
  const own = { capabilities: ['pull', 'resolve'], ...(blockImages && { header }) };
  const host = { [mirror]: own, ...tableAt(known, 'host') };
  const wanted = { ...known, ...(server !== undefined && { server }), host };
  const [first] = Object.keys(tableAt(result, 'host'));
  if (isDeepStrictEqual(result, wanted) && first === mirror) return;
  throw new ContainerdFileError(
    `cannot insert the mirror into ${file} because of its layout; ` +
      `add these lines before its first host by hand:\n${partOf(to)}`,
    { code: 'layout', path: file },
  );
}
