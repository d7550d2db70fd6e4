import { existsSync, type Stats } from 'node:fs';
import { lstat, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { DiskError, type DiskLock } from '../runtime/disk.ts';
import { isLockName, lockFolder } from '../runtime/node/disk-lock.ts';
import { failing } from './files.ts';

const PREFIX = 'xylem-convert-';

/** Folders that are made one after the other, when others take each for a left one. */
const ATTEMPTS_MAX = 8;

/**
 * Gives `work` a folder of its own in `base`, by default the one for temporary files, and removes
 * it afterwards. Before, it removes what processes that were killed have left there, and tells
 * `onCleared` which folders. Throws ConvertError, and what the work throws.
 */
export async function withWorkFolder<T>(
  base: string | undefined,
  work: (folder: string) => Promise<T>,
  onCleared: (folders: readonly string[]) => void = () => {},
): Promise<T> {
  // Programs that are given it may have another working directory.
  const parent = resolve(base ?? tmpdir());
  const cleared = await clearLeft(parent);
  if (cleared.length > 0) onCleared(cleared);
  const { folder, lock } = await makeFolder(parent);
  try {
    return await work(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
    await lock?.release();
  }
}

/**
 * A folder that is marked as in use by a lock, which ends with the process. Where a file system
 * takes no lock the folder has no mark, and nobody ever takes it for a left one.
 */
async function makeFolder(
  parent: string,
): Promise<{ readonly folder: string; readonly lock: DiskLock | undefined }> {
  for (let attempt = 1; ; attempt++) {
    const folder = await failing(parent, 'write to', () => mkdtemp(join(parent, PREFIX)));
    try {
      return { folder, lock: await lockFolder(folder) };
    } catch (error) {
      // Another process may have looked before the lock was held, and have removed the folder.
      const isTaken = isLocked(error) || !existsSync(folder);
      if (!isTaken || attempt === ATTEMPTS_MAX) return { folder, lock: undefined };
      await rm(folder, { recursive: true, force: true });
    }
  }
}

/** Removes the folders of dead processes of this user; never rejects. */
async function clearLeft(parent: string): Promise<readonly string[]> {
  const names = await readdir(parent).catch(() => []);
  const cleared: string[] = [];
  for (const name of names) {
    if (!name.startsWith(PREFIX)) continue;
    const folder = join(parent, name);
    if (await clear(folder).catch(() => false)) cleared.push(folder);
  }
  return cleared;
}

/** Whether it was a left one, and is removed. */
async function clear(folder: string): Promise<boolean> {
  if (!isOwn(await lstat(folder))) return false;
  // One without a lock may have been made just now.
  if (!(await readdir(folder)).some(isLockName)) return false;
  const lock = await lockFolder(folder);
  try {
    await rm(folder, { recursive: true, force: true });
    return true;
  } finally {
    await lock.release();
  }
}

/** In a folder for all users, one of another user can be anything, and lead anywhere. */
function isOwn(found: Stats): boolean {
  return found.isDirectory() && found.uid === process.getuid?.() && (found.mode & 0o022) === 0;
}

function isLocked(error: unknown): boolean {
  return error instanceof DiskError && error.code === 'locked';
}
