import { DiskError, type Disk } from '../runtime/disk.ts';
import type { Logger } from '../runtime/logger.ts';
import { errorText } from '../util/errors.ts';
import { readWhole } from './read-fully.ts';

/**
 * Reads a file of the store's folder, at most `sizeBytesMax` of it. A missing or unreadable file
 * reads as empty; the latter is logged.
 */
export async function readSmallFile(
  { disk, logger }: { readonly disk: Disk; readonly logger: Logger },
  path: string,
  sizeBytesMax: number,
): Promise<Uint8Array> {
  try {
    const file = await disk.open(path, 'read');
    try {
      return await readWhole(file, sizeBytesMax);
    } finally {
      await file.close();
    }
  } catch (error) {
    if (!(error instanceof DiskError && error.code === 'not-found')) {
      logger.warn({ path, error: errorText(error) }, 'a part of the store is unreadable');
    }
    return new Uint8Array(0);
  }
}

/**
 * Writes a file under another name first: a crash leaves the old file or the new one. With `sync`,
 * the new one survives a loss of power. Rejects with DiskError.
 */
export async function replaceSmallFile(
  disk: Disk,
  path: string,
  bytes: Uint8Array,
  options: { readonly sync: boolean },
): Promise<void> {
  const temporary = `${path}.new`;
  const file = await disk.open(temporary, 'write');
  try {
    await file.truncate(0);
    await file.write(bytes, 0);
    if (options.sync) await file.sync();
  } finally {
    await file.close();
  }
  await disk.rename(temporary, path);
  if (options.sync) await disk.syncFolder('');
}
