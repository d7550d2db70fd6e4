import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { parse } from 'smol-toml';
import { CodedError, errorText } from '../../util/errors.ts';

/** Of a file that keeps what was there before the first change. */
export const BACKUP_SUFFIX = '.before-xylem';

/** Around what the command adds to a file, so that it finds that again whatever else is there. */
export const PART_BEGIN =
  '# xylem: begin (made by `xylem configure-containerd`, taken out by its --remove)';
/** See `PART_BEGIN`. */
export const PART_END = '# xylem: end';
const PART = /^# xylem: begin.*\n(?:.*\n)*?# xylem: end\n?/m;

/**
 * The command cannot read, parse or write a file of containerd, or (`snapshotter`) must not ask for
 * block images. The message says what to do.
 */
export class ContainerdFileError extends CodedError<
  | { readonly code: 'file'; readonly path: string }
  | { readonly code: 'syntax'; readonly path: string }
  | { readonly code: 'layout'; readonly path: string }
  | { readonly code: 'snapshotter'; readonly path: string }
> {}

/** The planned change of a file. */
export interface FileChange {
  readonly file: string;
  readonly action: 'create' | 'change' | 'restore' | 'delete' | 'none';
  /** Contents of the file afterwards; absent when there is no file then. */
  readonly text?: string;
  /** File that keeps the earlier contents; for `restore` the file that they come from. */
  readonly backup?: string;
  readonly note?: string;
}

/** A table of TOML. */
export type Table = Readonly<Record<string, unknown>>;

/** The text without what the command has added. */
export function withoutPart(text: string): string {
  return text.replace(PART, '');
}

/** The text with a part at its end. */
export function withPartAtEnd(text: string, part: string): string {
  if (text.trim() === '') return part;
  return `${text}${text.endsWith('\n') ? '' : '\n'}${part}`;
}

/**
 * The change to `text` of a file that has `before`: what is there is kept, unless the command has
 * added to it already, so that `rest` is something else.
 */
export function changeTo(
  text: string,
  { file, before, rest }: { file: string; before: string | undefined; rest: string },
): FileChange {
  if (text === before) return { file, action: 'none', text };
  if (before === undefined) return { file, action: 'create', text };
  const backup = file + BACKUP_SUFFIX;
  return { file, action: 'change', text, ...(rest === before && { backup }) };
}

/** Makes the planned change: replaces each file as a whole. Throws ContainerdFileError. */
export function carryOut({ file, action, text, backup }: FileChange): void {
  attempt(file, 'written', () => {
    if (action === 'none') return;
    if (action === 'restore' && backup !== undefined) return renameSync(backup, file);
    if (action === 'delete') {
      rmSync(file);
      removeIfEmpty(dirname(file));
      return;
    }
    mkdirSync(dirname(file), { recursive: true });
    const mode = existsSync(file) ? statSync(file).mode & 0o777 : 0o644;
    if (backup !== undefined) replace(backup, readFileSync(file, 'utf8'), mode);
    replace(file, text ?? '', mode);
  });
}

/**
 * The snapshotters that the file names beside containerd's own, and their sockets. Throws
 * ContainerdFileError for a file that is not TOML.
 */
export function proxySnapshotters(file: string): ReadonlyMap<string, string> {
  const plugins = Object.entries(tableAt(parsed(readText(file) ?? '', file), 'proxy_plugins'));
  return new Map(
    plugins.flatMap(([name, plugin]) => {
      const { type, address } = Object(plugin) as Table;
      return type === 'snapshot' && typeof address === 'string' ? [[name, address] as const] : [];
    }),
  );
}

/** Parses TOML. Throws ContainerdFileError `syntax`. */
export function parsed(text: string, path: string): Table {
  try {
    // Through JSON: its tables have no prototype, which matters in comparisons.
    return JSON.parse(JSON.stringify(parse(text))) as Table;
  } catch (cause) {
    const [line = ''] = errorText(cause).split('\n');
    const what = `${path} is not valid TOML: ${line}; no file was changed`;
    throw new ContainerdFileError(what, { code: 'syntax', path }, { cause });
  }
}

/** A table in a table; an empty one when it is missing. */
export function tableAt(table: Table, key: string): Table {
  return Object(table[key]) as Table;
}

/** The text of a file; undefined when there is none. Throws ContainerdFileError. */
export function readText(path: string): string | undefined {
  return attempt(path, 'read', () => (existsSync(path) ? readFileSync(path, 'utf8') : undefined));
}

function replace(path: string, text: string, mode: number): void {
  writeFileSync(`${path}.new`, text, { mode });
  renameSync(`${path}.new`, path);
}

function removeIfEmpty(dir: string): void {
  if (readdirSync(dir).length === 0) rmdirSync(dir);
}

function attempt<T>(path: string, done: string, action: () => T): T {
  try {
    return action();
  } catch (cause) {
    const denied = (cause as { code?: unknown }).code === 'EACCES' ? '; run it as root' : '';
    const what = `${path} cannot be ${done}: ${errorText(cause)}${denied}`;
    throw new ContainerdFileError(what, { code: 'file', path }, { cause });
  }
}
