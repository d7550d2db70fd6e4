import { mkdir, mkdirSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { promisify } from 'node:util';

const make = promisify(mkdir);

/**
 * Makes a folder and those above it, as `mkdir -p` does. Throws what the system says of the first
 * that cannot be made: Node's own way says ENOENT of a read-only file system, and never ends below
 * /proc.
 */
export function makeFolders(path: string, mode?: number): void {
  try {
    mkdirSync(path, mode);
  } catch (error) {
    if (!isRetried(path, error)) return;
    makeFolders(dirname(path), mode);
    mkdirSync(path, mode);
  }
}

/** The same without waiting for the disk. */
export async function makeFoldersSoon(path: string, mode?: number): Promise<void> {
  try {
    await make(path, mode);
  } catch (error) {
    if (!isRetried(path, error)) return;
    await makeFoldersSoon(dirname(path), mode);
    await make(path, mode).catch((again: unknown) => {
      // Another call has made it meanwhile.
      if (!isFolder(path)) throw again;
    });
  }
}

/** Whether folders above are missing; false when the folder is there. Throws any other error. */
function isRetried(path: string, error: unknown): boolean {
  if (isFolder(path)) return false;
  const isMissing = (error as NodeJS.ErrnoException).code === 'ENOENT';
  if (isMissing && dirname(path) !== path) return true;
  throw error;
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
}
