import type { Disk } from '../runtime/disk.ts';
import type { Logger } from '../runtime/logger.ts';
import { errorText } from '../util/errors.ts';
import { readWhole } from '../runtime/whole-file.ts';

/**
 * Reads a file of the store's folder, at most `sizeBytesMax` of it. Undefined when it is missing or
 * unreadable; the latter is logged.
 */
export async function readSmallFile(
  { disk, logger }: { readonly disk: Disk; readonly logger: Logger },
  path: string,
  sizeBytesMax: number,
): Promise<Uint8Array | undefined> {
  try {
    return await readWhole(disk, path, sizeBytesMax);
  } catch (error) {
    logger.warn({ path, error: errorText(error) }, 'a part of the store is unreadable');
    return undefined;
  }
}
