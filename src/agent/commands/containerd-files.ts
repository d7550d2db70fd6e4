import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
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
  /** A file that the contents come from: a new file is for the eyes of the same users. */
  readonly like?: string;
  /** For `delete`: whether the command has made the folder too. */
  readonly withFolder?: boolean;
  readonly note?: string;
}

/** A table of TOML. */
export type Table = Readonly<Record<string, unknown>>;

/** The text without what the command has added. */
export function withoutPart(text: string): string {
  return text.replace(PART, '');
}

/** What the command has added to the text. */
export function onlyPart(text: string): string {
  return PART.exec(text)?.[0] ?? '';
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
  const backup = realFile(file) + BACKUP_SUFFIX;
  return { file, action: 'change', text, ...(rest === before && { backup }) };
}

/**
 * Makes the planned change. A file that is there is written in place, so that its mode, owner,
 * lists of rights, label and links stay. Throws ContainerdFileError.
 */
export function carryOut({ file, action, text = '', backup, like, withFolder }: FileChange): void {
  attempt(file, 'written', () => {
    switch (action) {
      case 'none':
        return;
      case 'create':
        makeFolder(dirname(file));
        return create(file, Buffer.from(text), like);
      case 'change':
        if (backup !== undefined) {
          rmSync(backup, { force: true });
          create(backup, readFileSync(file), file);
        }
        return overwrite(file, Buffer.from(text));
      case 'restore':
        overwrite(file, backup === undefined ? Buffer.from(text) : readFileSync(backup));
        if (backup !== undefined) rmSync(backup);
        return;
      case 'delete':
        rmSync(file);
        if (withFolder === true) removeIfEmpty(dirname(file));
    }
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

/**
 * The text of a file; undefined when there is none. Throws ContainerdFileError, also for a link
 * that leads nowhere, and for bytes that would not come back from a text.
 */
export function readText(path: string): string | undefined {
  return attempt(path, 'read', () => {
    if (existsSync(path)) return TEXT.decode(readFileSync(path));
    if (isLink(path)) throw new Error('it is a link that leads nowhere');
    return undefined;
  });
}

/** A file itself, where links lead to it: they stay. */
export function realFile(file: string): string {
  return existsSync(file) ? realpathSync(file) : file;
}

/** Whether the path itself is a symbolic link. */
export function isLink(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() === true;
}

const TEXT = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function makeFolder(path: string): void {
  if (mkdirSync(path, { recursive: true }) !== undefined) chmodSync(path, 0o755);
}

/** Makes a file for everybody, or for those who may read the other file. */
function create(path: string, bytes: Buffer, like: string | undefined): void {
  writeFileSync(path, '', { flag: 'wx', mode: 0o600 });
  if (like === undefined) chmodSync(path, 0o644);
  else shareLike(path, like);
  overwrite(path, bytes);
}

/**
 * Gives a file the mode, owner, lists of rights and label of another. Without GNU's cp its group
 * and others get no right: the mode alone does not tell which of them a list of rights lets in.
 */
function shareLike(path: string, like: string): void {
  const args = ['--attributes-only', '--preserve=all', '--', realpathSync(like), path];
  if (spawnSync('cp', args, { stdio: 'ignore' }).status === 0) return;
  const { mode, uid, gid } = statSync(like);
  chownSync(path, uid, gid);
  chmodSync(path, mode & 0o700);
}

/**
 * Replaces the contents of a file in place. Line breaks at the end take the room first, so that a
 * full disk leaves the file as it was.
 */
function overwrite(path: string, bytes: Buffer): void {
  const descriptor = openSync(path, 'r+');
  try {
    const { size } = fstatSync(descriptor);
    try {
      writeAll(descriptor, Buffer.alloc(Math.max(0, bytes.length - size), '\n'), size);
      fsyncSync(descriptor);
    } catch (error) {
      ftruncateSync(descriptor, size);
      throw error;
    }
    writeAll(descriptor, bytes, 0);
    ftruncateSync(descriptor, bytes.length);
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

function writeAll(descriptor: number, bytes: Buffer, position: number): void {
  for (let done = 0; done < bytes.length; ) {
    done += writeSync(descriptor, bytes, done, bytes.length - done, position + done);
  }
}

function removeIfEmpty(dir: string): void {
  if (!isLink(dir) && readdirSync(dir).length === 0) rmdirSync(dir);
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
