import type { Disk } from '../runtime/disk.ts';
import type { Logger } from '../runtime/logger.ts';
import { readWhole, replaceFile } from '../runtime/whole-file.ts';
import { BlockStoreError } from './errors.ts';
import { VERSION_FILE, VERSION_TEXT } from './layout.ts';

interface Components {
  readonly disk: Disk;
  readonly logger: Logger;
}

/** Most bytes of a version text that are read; every known one is shorter. */
const VERSION_BYTES_MAX = 64;

/** What any release writes. */
const ANY_VERSION = /^xylem-store [1-9][0-9]{0,8}\n$/;

/**
 * Writes the version into a new store, and into one whose version no release has written: then the
 * file is damaged, and each blob says by itself of which version it is. Rejects with `version` when
 * another release wrote the store.
 */
export async function checkVersion({ disk, logger }: Components): Promise<void> {
  const bytes = await readWhole(disk, VERSION_FILE, VERSION_BYTES_MAX);
  const found = new TextDecoder().decode(bytes);
  if (found === VERSION_TEXT) return;
  if (bytes === undefined || !ANY_VERSION.test(found)) {
    if (bytes !== undefined) {
      const fields = { path: VERSION_FILE, sizeBytes: bytes.length };
      logger.warn(fields, "the store's version is damaged: it is written anew");
    }
    return replaceFile(disk, VERSION_FILE, new TextEncoder().encode(VERSION_TEXT), { sync: true });
  }
  throw new BlockStoreError(
    `the block store has version ${JSON.stringify(found)}, but this version of xylem only reads ` +
      `${JSON.stringify(VERSION_TEXT)}: use the version that wrote it, ` +
      'or empty the folder (blocks are fetched again)',
    { code: 'version', found },
  );
}
