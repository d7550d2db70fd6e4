import { closeSync, constants, mkdirSync, openSync, realpathSync, rmdirSync } from 'node:fs';
import { basename, dirname, resolve } from 'node:path';
import { makeFolders } from '../../runtime/node/folders.ts';
import { DeviceError } from '../errors.ts';

/** A folder itself: never what a symbolic link in its place leads to. */
const OPEN_FLAGS = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;

/**
 * An open folder. It stays the same folder whatever happens to its path; the holder closes the
 * descriptor.
 */
export interface TargetFolder {
  readonly fd: number;
  /** Its path without symbolic links, as the kernel lists it. */
  readonly path: string;
  /** Whether it was missing and has been made. */
  readonly isNew: boolean;
}

/**
 * The folder of `folders` that `dir` lies below. Throws DeviceError `target-not-allowed` when there
 * is none.
 */
export function folderAbove(dir: string, folders: readonly string[]): string {
  const path = resolve(dir);
  const found = folders.map((folder) => resolve(folder)).find((folder) => isBelow(path, folder));
  if (found !== undefined) return found;
  throw new DeviceError(
    `${dir} cannot be mounted on: ` +
      `images are mounted below the folders of device.mountFolders alone (${folders.join(', ')})`,
    { code: 'target-not-allowed', dir },
  );
}

/**
 * Opens `dir` folder by folder, from the folder of `folders` that it lies below, and makes missing
 * folders. Follows symbolic links in the path of that configured folder, and none below it. Throws
 * DeviceError.
 */
export function openTarget(dir: string, folders: readonly string[]): TargetFolder {
  const top = folderAbove(dir, folders);
  const names = resolve(dir)
    .slice(top.length)
    .split('/')
    .filter((name) => name !== '');
  try {
    makeFolders(top);
    return walk(realpathSync(top), names, true);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    // Linux reports these when a link is to be opened as a folder itself.
    const isLink = code === 'ENOTDIR' || code === 'ELOOP';
    const why = isLink ? 'a symbolic link or a file is on the way' : (code ?? String(cause));
    throw new DeviceError(
      `${dir} cannot be mounted on (${why}): name an empty folder, or one that can be made`,
      { code: 'target-not-usable', dir },
      { cause },
    );
  }
}

/**
 * Removes a folder by its path without symbolic links; leaves it when it is in use, or when its
 * path holds a link by now.
 */
export function removeEmptyFolder(path: string): void {
  try {
    const fd = openFolder(dirname(path));
    try {
      rmdirSync(`${pathOf(fd)}/${basename(path)}`);
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException;
    if (!['ENOENT', 'ENOTEMPTY', 'EBUSY', 'ENOTDIR', 'ELOOP'].includes(code)) throw error;
  }
}

/** Opens a folder by its path without symbolic links; throws when there is one on the way. */
export function openFolder(path: string): number {
  return walk('/', path.split('/').filter(Boolean), false).fd;
}

/** The path of an open folder in this process. */
export function pathOf(fd: number): string {
  return `/proc/self/fd/${fd}`;
}

function isBelow(path: string, folder: string): boolean {
  return path.startsWith(folder === '/' ? folder : `${folder}/`) && path !== folder;
}

function walk(top: string, names: readonly string[], makes: boolean): TargetFolder {
  let folder: TargetFolder = { fd: openSync(top, OPEN_FLAGS), path: top, isNew: false };
  for (const name of names) {
    try {
      const inner = `${pathOf(folder.fd)}/${name}`;
      const isNew = makes && makeFolder(inner);
      const path = folder.path === '/' ? `/${name}` : `${folder.path}/${name}`;
      const next = { fd: openSync(inner, OPEN_FLAGS), path, isNew };
      closeSync(folder.fd);
      folder = next;
    } catch (error) {
      closeSync(folder.fd);
      throw error;
    }
  }
  return folder;
}

/** Whether it was missing. */
function makeFolder(path: string): boolean {
  try {
    mkdirSync(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}
