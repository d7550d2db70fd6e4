import { isDeepStrictEqual } from 'node:util';
import {
  BACKUP_SUFFIX,
  changeTo,
  ContainerdFileError,
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

/** The name of our snapshotter in containerd. */
export const SNAPSHOTTER_NAME = 'xylem';

/** At the end of a line that the command sets in a table of the file. */
const SET = '# xylem: set by `xylem configure-containerd`';

/** Before a line that such a line stands for. */
const WAS = '# xylem: was ';

/** What the command is to write. */
export interface SnapshotterInit {
  /** Of containerd's configuration. */
  readonly file: string;
  readonly socket: string;
  /** Where the snapshotter keeps its files: kubelet measures the disk of images there. */
  readonly snapshotsDir: string;
  /** Whether Kubernetes' images are for this snapshotter. */
  readonly forCri: boolean;
}

/**
 * Plans the change that makes containerd 1.6 to 2.x use the snapshotter of `xylem device`. Changes
 * nothing itself. Everything else that the file says stays said: that is checked by parsing both.
 * Throws ContainerdFileError.
 */
export function planSnapshotter(init: SnapshotterInit): FileChange {
  const file = realFile(init.file);
  const before = readText(file);
  const rest = withoutOurs(before ?? '');
  const known = parsed(rest, file);
  const version = versionOf(known);
  if (Object.hasOwn(tableAt(known, 'proxy_plugins'), SNAPSHOTTER_NAME)) {
    throw new ContainerdFileError(
      `${file} has a [proxy_plugins.${SNAPSHOTTER_NAME}] that this command did not write; ` +
        'remove it first',
      { code: 'layout', path: file },
    );
  }
  const plugin = pluginOf(init);
  const settings = init.forCri ? CRI_SETTINGS : {};
  const place = criPlace(version);
  const edited = withSettings(rest, place, settings);
  const isEmpty = rest.trim() === '';
  const part = [
    PART_BEGIN,
    ...(isEmpty ? ['version = 2', ''] : []),
    ...pluginLines(plugin),
    ...edited.missing,
    PART_END,
    '',
  ];
  const text = withPartAtEnd(edited.text, part.join('\n'));
  const wanted = merged(merged(known, isEmpty ? { version: 2 } : {}), {
    proxy_plugins: { [SNAPSHOTTER_NAME]: plugin },
    ...nested(place, settings),
  });
  if (!isDeepStrictEqual(parsedOrNothing(text), wanted)) throw layoutError(file, init, place);
  return changeTo(text, { file, before, rest });
}

/** Plans the change that undoes `planSnapshotter()`. Throws ContainerdFileError. */
export function planSnapshotterRemoval(init: Pick<SnapshotterInit, 'file'>): FileChange {
  const file = realFile(init.file);
  const before = readText(file);
  const rest = withoutOurs(before ?? '');
  if (before === undefined || rest === before) {
    return { file, action: 'none', ...(before !== undefined && { text: before }) };
  }
  parsed(rest, file);
  const backup = file + BACKUP_SUFFIX;
  const kept = readText(backup);
  if (kept !== undefined && kept.trim() === rest.trim()) {
    return { file, action: 'restore', text: kept, backup };
  }
  if (rest.trim() === '') return { file, action: 'delete' };
  const note =
    kept === undefined
      ? undefined
      : `edited since: the edits stay; ${backup} has the contents before them`;
  return { file, action: 'change', text: rest, ...(note !== undefined && { note }) };
}

/** What CRI needs: layers come with labels, and are not kept twice. */
const CRI_SETTINGS: Table = {
  snapshotter: SNAPSHOTTER_NAME,
  disable_snapshot_annotations: false,
  discard_unpacked_layers: true,
};

/** The table of CRI that names the snapshotter, in each version of the configuration. */
function criPlace(version: 1 | 2 | 3): readonly string[] {
  switch (version) {
    case 1:
      return ['plugins', 'cri', 'containerd'];
    case 2:
      return ['plugins', 'io.containerd.grpc.v1.cri', 'containerd'];
    case 3:
      return ['plugins', 'io.containerd.cri.v1.images'];
  }
}

/** As containerd reads it: a file without a version has the first one, an empty one any. */
function versionOf(known: Table): 1 | 2 | 3 {
  if (Object.keys(known).length === 0) return 2;
  const { version = 1 } = known;
  return version === 3 ? 3 : version === 1 ? 1 : 2;
}

/** `exports` tell newer versions that the snapshotter wants to know where images are from. */
function pluginOf({ socket, snapshotsDir }: SnapshotterInit): Table {
  const exports = { root: snapshotsDir, enable_remote_snapshot_annotations: 'true' };
  return { type: 'snapshot', address: socket, exports };
}

function pluginLines(plugin: Table): readonly string[] {
  const { exports, ...rest } = plugin;
  const name = `proxy_plugins.${SNAPSHOTTER_NAME}`;
  return [
    `[${name}]`,
    ...linesOf(rest, '  '),
    `  [${name}.exports]`,
    ...linesOf(exports as Table, '    '),
  ];
}

function linesOf(values: Table, indent: string): readonly string[] {
  return Object.entries(values).map(([key, value]) => `${indent}${key} = ${JSON.stringify(value)}`);
}

/**
 * The text with these values in a table. `missing` has the table where the text has none: it is to
 * be added.
 */
function withSettings(
  text: string,
  place: readonly string[],
  settings: Table,
): { readonly text: string; readonly missing: readonly string[] } {
  if (Object.keys(settings).length === 0) return { text, missing: [] };
  const lines = text.split('\n');
  const start = lines.findIndex((line) => isDeepStrictEqual(headerOf(line), place));
  if (start < 0) {
    return { text, missing: [`[${place.map(quoted).join('.')}]`, ...linesOf(settings, '  ')] };
  }
  const next = lines.findIndex((line, i) => i > start && headerOf(line) !== undefined);
  const end = next < 0 ? lines.length : next;
  const table = lines.slice(start + 1, end);
  for (const [key, value] of Object.entries(settings).reverse()) {
    const line = `  ${key} = ${JSON.stringify(value)} ${SET}`;
    const at = table.findIndex((each) => keyOf(each) === key);
    const old = table[at];
    if (old === undefined) table.unshift(line);
    else if (valueIn(old, key) !== value) table.splice(at, 1, WAS + old, line);
  }
  return {
    text: [...lines.slice(0, start + 1), ...table, ...lines.slice(end)].join('\n'),
    missing: [],
  };
}

/** The path of the table that a line begins; undefined for other lines. */
function headerOf(line: string): readonly string[] | undefined {
  const path = /^\s*\[\s*([^[\]#]*?)\s*\]\s*(?:#.*)?$/.exec(line)?.[1];
  if (path === undefined) return /^\s*\[\[/.test(line) ? [] : undefined;
  return [...path.matchAll(/"([^"]*)"|'([^']*)'|([\w-]+)/g)].map(
    ([, double, single, bare]) => double ?? single ?? bare ?? '',
  );
}

function keyOf(line: string): string | undefined {
  return /^\s*["']?([\w-]+)["']?\s*=/.exec(line)?.[1];
}

/** The value that a line gives to a key; undefined when the line alone does not tell. */
function valueIn(line: string, key: string): unknown {
  return parsedOrNothing(line)?.[key];
}

function parsedOrNothing(text: string): Table | undefined {
  try {
    return parsed(text, '');
  } catch {
    return undefined;
  }
}

function quoted(name: string): string {
  return /^[\w-]+$/.test(name) ? name : JSON.stringify(name);
}

/** Takes out everything that `planSnapshotter()` put in. */
function withoutOurs(text: string): string {
  return withoutPart(text)
    .split('\n')
    .filter((line) => !line.endsWith(SET))
    .map((line) => (line.startsWith(WAS) ? line.slice(WAS.length) : line))
    .join('\n');
}

function nested(place: readonly string[], values: Table): Table {
  if (Object.keys(values).length === 0) return {};
  return place.reduceRight<Table>((inner, name) => ({ [name]: inner }), values);
}

function merged(table: Table, more: Table): Table {
  const result: Record<string, unknown> = { ...table };
  for (const [key, value] of Object.entries(more)) {
    const isTable = typeof value === 'object' && value !== null && !Array.isArray(value);
    result[key] = isTable ? merged(tableAt(table, key), value as Table) : value;
  }
  return result;
}

function layoutError(file: string, init: SnapshotterInit, place: readonly string[]) {
  const lines = [
    ...pluginLines(pluginOf(init)),
    ...(init.forCri ? [`[${place.map(quoted).join('.')}]`, ...linesOf(CRI_SETTINGS, '  ')] : []),
  ];
  return new ContainerdFileError(
    `cannot put the snapshotter into ${file} because of its layout; ` +
      `set these values by hand:\n${lines.join('\n')}`,
    { code: 'layout', path: file },
  );
}
