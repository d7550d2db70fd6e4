import type { Disk } from '../runtime/disk.ts';
import type { Logger } from '../runtime/logger.ts';
import { errorText } from '../util/errors.ts';
import { readWhole } from '../runtime/whole-file.ts';

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
    return (await readWhole(disk, path, sizeBytesMax)) ?? new Uint8Array(0);
  } catch (error) {
    logger.warn({ path, error: errorText(error) }, 'a part of the store is unreadable');
    return new Uint8Array(0);
  }
}
