import { dirname } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { BLOCK_IMAGES_HEADER, BLOCK_IMAGES_VALUE } from '../../edge/mirror/block-images.ts';
import { registryServer } from '../../registry/reference.ts';
import {
  BACKUP_SUFFIX,
  changeTo,
  ContainerdFileError,
  isLink,
  onlyPart,
  parsed,
  PART_BEGIN,
  PART_END,
  readText,
  realFile,
  tableAt,
  withoutPart,
  withPartAtEnd,
  type FileChange,
  type Table,
} from './containerd-files.ts';
import {
  certificatesBeside,
  credentialHosts,
  DEFAULT_HOST,
  folderRead,
  folderSecret,
  folderTable,
  hostsFault,
  hostsFile,
  MADE_FOLDER,
  missingFiles,
  standsAlone,
} from './containerd-folders.ts';
import { hostOf, hostsTableOf, type RegistryConfig } from './containerd-registries.ts';

/** In what the command adds, where it says what containerd's configuration says. */
const FROM_CONFIGURATION = "# xylem: says what containerd's configuration said of the registry";

/** The planned change of one hosts.toml. */
export interface HostsChange extends FileChange {
  /** The registry, or `_default`. */
  readonly registry: string;
  /** Why containerd does not ask the agent, or cannot pull, whatever the command adds. */
  readonly faults?: readonly string[];
  /** Hosts that the file gives credentials, by a header; `''` for the server. */
  readonly credentials?: readonly string[];
}

interface HostsInit {
  /** The folder of `config_path` to write to. */
  readonly dir: string;
  /** All folders of `config_path`, in containerd's order. Default: `dir`. */
  readonly dirs?: readonly string[];
  /** As image references name it, or `_default`. */
  readonly registry: string;
  /** What containerd's configuration says of registries. */
  readonly config?: RegistryConfig;
}

/**
 * Plans the change that makes containerd ask the mirror before the registry. What containerd reads
 * until then, in other files too, it goes on to read. Changes nothing itself. Throws
 * ContainerdFileError.
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
  const file = hostsFile(init.dir, registry);
  const before = readText(file);
  const rest = withoutPart(before ?? '');
  const known = parsed(rest, file);
  const isComplement = rest !== before && !Object.hasOwn(byHand(known, mirror), 'capabilities');
  if (Object.hasOwn(tableAt(known, 'host'), mirror) && !isComplement) {
    const note = `${mirror} is already in the file; this command did not write it`;
    const isFirst = Object.keys(tableAt(known, 'host'))[0] === mirror;
    const text = before === undefined ? {} : { text: before };
    const found = { registry, ...findings(init, file, known) };
    return { ...found, file, action: 'none', ...text, note: isFirst ? note : `${note}, not first` };
  }
  const carried = carriedInto(init, { file, before, known });
  const { host: hosts, ...top } = withoutKnown(carried.table, known);
  const server = Object.hasOwn(known, 'server') ? undefined : init.server;
  const wanted = {
    ...{ mirror, blockImages, marks: carried.marks, hosts: (hosts ?? {}) as Table },
    top: { ...(server === undefined ? top : withoutServer(top)), ...(server && { server }) },
  };
  const text = withPart(rest, partOf(wanted));
  checkResult(text, { file, known, ...wanted });
  const notes = [...serverNotes(init.server, known, file), ...carried.notes];
  return {
    ...{ registry, ...findings(init, file, parsed(text, file)) },
    ...changeTo(text, { file, before, rest }),
    ...(carried.like !== undefined && { like: carried.like }),
    ...(notes.length > 0 && { note: notes.join('; ') }),
  };
}

/** Plans the change that undoes `planMirror()`; makes none itself. Throws ContainerdFileError. */
export function planRemoval(init: HostsInit): HostsChange {
  const { registry, dir, config } = init;
  const file = hostsFile(dir, registry);
  const before = readText(file);
  const rest = withoutPart(before ?? '');
  if (before === undefined || rest === before) {
    return { registry, file, action: 'none', ...(before !== undefined && { text: before }) };
  }
  const isLost =
    before.includes(FROM_CONFIGURATION) &&
    (config === undefined || Object.keys(configTable(config, registry)).length === 0);
  const lost = isLost
    ? `what it said for containerd's configuration goes too: ${shown(addedTable(before))}`
    : undefined;
  const [mirror = ''] = Object.keys(tableAt(parsed(onlyPart(before), file), 'host'));
  const left = Object.hasOwn(tableAt(parsed(rest, file), 'host'), mirror)
    ? `what it says of ${mirror} by hand stays, so containerd goes on to ask that`
    : undefined;
  const noteOf = (...notes: readonly (string | undefined)[]) => {
    const all = notes.filter((note) => note !== undefined);
    return all.length === 0 ? {} : { note: all.join('; ') };
  };
  const backup = realFile(file) + BACKUP_SUFFIX;
  const kept = readText(backup);
  if (kept?.trim() === rest.trim() && kept !== undefined) {
    return { registry, file, action: 'restore', text: kept, backup, ...noteOf(lost) };
  }
  const edited =
    kept === undefined
      ? undefined
      : `edited since: the edits stay; ${backup} has the contents before them`;
  if (kept !== undefined || rest.trim() !== '' || isLink(file)) {
    return { registry, file, action: 'change', text: rest, ...noteOf(edited, lost, left) };
  }
  const withFolder = before.includes(MADE_FOLDER);
  return { registry, file, action: 'delete', withFolder, ...noteOf(lost) };
}

/** Registries whose hosts.toml has what containerd's configuration says of them. */
export function takenOver(dir: string, registries: readonly string[]): readonly string[] {
  return registries.filter((registry) =>
    readText(hostsFile(dir, registry))?.includes(FROM_CONFIGURATION),
  );
}

/** What somebody has written of the mirror, beside what the command writes: a header. */
function byHand(known: Table, mirror: string): Table {
  return tableAt(tableAt(known, 'host'), mirror);
}

/** What the command writes, because containerd reads it elsewhere until then. */
interface Carried {
  readonly table: Table;
  /** Comments by which the command knows it again. */
  readonly marks: readonly string[];
  readonly notes: readonly string[];
  /** A file whose readers alone may read it. */
  readonly like?: string;
}

function carriedInto(
  { dir, dirs = [dir], registry, config }: HostsInit,
  { file, before, known }: { file: string; before: string | undefined; known: Table },
): Carried {
  const folder = dirname(file);
  const isOwn = standsAlone(file);
  const source = isOwn ? undefined : folderRead(dirs, registry, folder);
  const beside = isOwn ? certificatesBeside(folder, known) : {};
  const read = source === undefined ? beside : folderTable(source);
  const said = config === undefined ? {} : configTable(config, registry);
  const isKept = Object.keys(said).length === 0 && before?.includes(FROM_CONFIGURATION) === true;
  const configured = forServer(isKept ? addedTable(before) : said, registry, known);
  const isConfigured = isKept || Object.keys(configured).length > 0;
  const secret = source === undefined ? undefined : folderSecret(source);
  const like = secret ?? (isConfigured && !isKept ? config?.file : undefined);
  return {
    table: joined(read, configured),
    marks: [...(isOwn ? [] : [MADE_FOLDER]), ...(isConfigured ? [FROM_CONFIGURATION] : [])],
    notes: [
      ...(Object.keys(beside).length > 0
        ? ['it names the certificate files beside it, which containerd would not look at']
        : []),
      ...(source !== undefined && Object.keys(read).length > 0
        ? [`it says what ${source} says, which containerd reads no more for ${registry}`]
        : []),
      ...(isConfigured ? ["it says what containerd's configuration says of the registry"] : []),
    ],
    ...(like !== undefined && { like }),
  };
}

function configTable(config: RegistryConfig, registry: string): Table {
  return hostsTableOf(config, registry === DEFAULT_HOST ? undefined : registry);
}

/** What the command has added to a file, but for the mirror. */
function addedTable(text: string): Table {
  const { host = {}, ...top } = parsed(onlyPart(text), '');
  const [, ...hosts] = Object.entries(Object(host) as Table);
  return { ...top, ...(hosts.length > 0 && { host: Object.fromEntries(hosts) as Table }) };
}

/** Keys about the server are for the registry's own, not for one that the file names. */
function forServer(table: Table, registry: string, known: Table): Table {
  const { server } = known;
  if (typeof server !== 'string' || hostOf(server) === registryServer(registry)) return table;
  return Object.hasOwn(table, 'host') ? { host: table['host'] } : {};
}

function joined(read: Table, configured: Table): Table {
  const lists = ['ca', 'client'].flatMap((key) => {
    const values = [read, configured].flatMap(({ [key]: value }) =>
      typeof value === 'string' ? [value] : ((value ?? []) as readonly unknown[]),
    );
    return values.length > 0 ? [[key, values] as const] : [];
  });
  const host = { ...tableAt(configured, 'host'), ...tableAt(read, 'host') };
  return {
    ...{ ...read, ...configured, ...Object.fromEntries(lists) },
    ...(Object.keys(host).length > 0 && { host }),
  };
}

/** What a file does not say itself. */
function withoutKnown({ host = {}, ...top }: Table, known: Table): Table {
  const unsaid = (table: Table, said: Table): Table =>
    Object.fromEntries(Object.entries(table).filter(([key]) => !Object.hasOwn(said, key)));
  return { ...unsaid(top, known), host: unsaid(host as Table, tableAt(known, 'host')) };
}

function withoutServer({ server: _, override_path: __, ...rest }: Table): Table {
  return rest;
}

function serverNotes(wanted: string | undefined, known: Table, file: string): readonly string[] {
  const { server, host } = known;
  if (typeof server !== 'string') return [];
  const isOther = wanted !== undefined && wanted !== server.replace(/\/$/, '');
  return [
    ...(isOther ? [`--server ${wanted} is not heeded: the file has server = "${server}"`] : []),
    ...(host === undefined
      ? [`containerd 1.x took no notice of server = "${server}" in ${file}; now it does`]
      : []),
  ];
}

function findings(
  { dir, dirs = [dir], registry }: HostsInit,
  file: string,
  table: Table,
): { faults?: readonly string[]; credentials?: readonly string[] } {
  const folder = dirname(file);
  const before = dirs.slice(0, Math.max(0, dirs.indexOf(dir)));
  const first = folderRead(before, registry);
  const fault = hostsFault(table);
  const missing = missingFiles(table, folder);
  const faults = [
    ...(first === undefined ? [] : [`containerd reads ${first} first, and not ${folder}`]),
    ...(fault === undefined ? [] : [`containerd reads nothing of ${file}: ${fault}`]),
    ...(missing.length === 0
      ? []
      : [`${file} names ${missing.join(', ')}: not there, so containerd pulls nothing of it`]),
  ];
  const credentials = credentialHosts(table);
  return { ...(faults.length > 0 && { faults }), ...(credentials.length > 0 && { credentials }) };
}

/** What the command writes. */
interface Part {
  readonly mirror: string;
  readonly blockImages: boolean;
  readonly marks: readonly string[];
  /** Keys of the server. */
  readonly top: Table;
  /** Hosts to ask after the mirror. */
  readonly hosts: Table;
}

/** What the file says of the mirror: what it says elsewhere already, and ours. */
function mirrorTable({ mirror, blockImages, hosts }: Part): Table {
  const { header = {}, ...known } = tableAt(hosts, mirror);
  const headers = {
    ...(header as Table),
    ...(blockImages && { [BLOCK_IMAGES_HEADER]: BLOCK_IMAGES_VALUE }),
  };
  const own = { ...known, capabilities: ['pull', 'resolve'] };
  return Object.keys(headers).length > 0 ? { ...own, header: headers } : own;
}

function partOf(part: Part): string {
  const { mirror, marks, top, hosts } = part;
  const lines = linesOf(top, []);
  const { [mirror]: _, ...others } = hosts;
  return [
    ...[PART_BEGIN, ...marks, ...lines, ...(lines.length > 0 ? [''] : [])],
    ...Object.entries({ [mirror]: mirrorTable(part), ...others }).flatMap(([host, table], i) => [
      ...(i === 0 ? [] : ['']),
      `[host.${JSON.stringify(host)}]`,
      ...linesOf(table as Table, ['host', host], '  '),
    ]),
    PART_END,
    '',
  ].join('\n');
}

/** The keys of a table, then the tables in it. */
function linesOf(table: Table, path: readonly string[], indent = ''): readonly string[] {
  const isTable = (value: unknown) =>
    typeof value === 'object' && value !== null && !Array.isArray(value);
  const entries = Object.entries(table);
  const key = (name: string): string => (/^[\w-]+$/.test(name) ? name : JSON.stringify(name));
  return [
    ...entries
      .filter(([, value]) => !isTable(value))
      .map(([name, value]) => `${indent}${key(name)} = ${valueText(value)}`),
    ...entries
      .filter(([, value]) => isTable(value))
      .flatMap(([name, value]) => [
        `${indent}[${[...path, name].map(key).join('.')}]`,
        ...linesOf(value as Table, [...path, name], `${indent}  `),
      ]),
  ];
}

function valueText(value: unknown): string {
  return Array.isArray(value) ? `[${value.map(valueText).join(', ')}]` : JSON.stringify(value);
}

function shown(table: Table): string {
  return JSON.stringify(table);
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
  const { file, known, mirror, top, hosts } = to;
  const result = parsed(text, file);
  const own = { ...mirrorTable(to), ...byHand(known, mirror) };
  const host = { ...hosts, ...tableAt(known, 'host'), [mirror]: own };
  const wanted = { ...known, ...top, host };
  const [first] = Object.keys(tableAt(result, 'host'));
  if (isDeepStrictEqual(result, wanted) && first === mirror) return;
  throw new ContainerdFileError(
    `cannot insert the mirror into ${file} because of its layout; ` +
      `add these lines before its first host by hand:\n${partOf(to)}`,
    { code: 'layout', path: file },
  );
}
