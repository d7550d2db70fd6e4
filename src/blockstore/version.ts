import type { Disk } from '../runtime/disk.ts';
import { readWhole, replaceFile } from '../runtime/whole-file.ts';
import { BlockStoreError } from './errors.ts';
import { VERSION_FILE, VERSION_TEXT } from './layout.ts';

/** Most bytes of a version text that are read; every known one is shorter. */
const VERSION_BYTES_MAX = 64;

/**
 * Writes the version into a new store; rejects with `version` when an existing store has another
 * one.
 */
export async function checkVersion(disk: Disk): Promise<void> {
  const bytes = await readWhole(disk, VERSION_FILE, VERSION_BYTES_MAX);
  if (bytes === undefined) {
    return replaceFile(disk, VERSION_FILE, new TextEncoder().encode(VERSION_TEXT), { sync: true });
  }
  const found = new TextDecoder().decode(bytes);
  if (found === VERSION_TEXT) return;
  throw new BlockStoreError(
    `the block store has version ${JSON.stringify(found)}, but this version of xylem only reads ` +
      `${JSON.stringify(VERSION_TEXT)}: use the version that wrote it, ` +
      'or empty the folder (blocks are fetched again)',
    { code: 'version', found },
  );
}
