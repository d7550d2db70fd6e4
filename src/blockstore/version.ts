import { DiskError, type Disk } from '../runtime/disk.ts';
import { BlockStoreError } from './errors.ts';
import { VERSION_FILE, VERSION_TEXT } from './layout.ts';
import { readFully } from './read-fully.ts';

/** Most bytes of a version text that are read; every known one is shorter. */
const VERSION_BYTES_MAX = 64;

/**
 * Writes the version into a new store; rejects with `version` when an existing store has another
 * one.
 */
export async function checkVersion(disk: Disk): Promise<void> {
  const found = await readVersion(disk);
  if (found === VERSION_TEXT) return;
  if (found === undefined) return writeVersion(disk);
  throw new BlockStoreError(
    `the block store has version ${JSON.stringify(found)}, but this version of xylem only reads ` +
      `${JSON.stringify(VERSION_TEXT)}: use the version that wrote it, ` +
      'or empty the folder (blocks are fetched again)',
    { code: 'version', found },
  );
}

async function readVersion(disk: Disk): Promise<string | undefined> {
  try {
    const file = await disk.open(VERSION_FILE, 'read');
    try {
      const bytes = new Uint8Array(VERSION_BYTES_MAX);
      const count = await readFully(file, bytes, 0);
      return new TextDecoder().decode(bytes.subarray(0, count));
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof DiskError && error.code === 'not-found') return undefined;
    throw error;
  }
}

/** Writes the file under another name first: a crash leaves a whole version file or none. */
async function writeVersion(disk: Disk): Promise<void> {
  const temporary = `${VERSION_FILE}.new`;
  const file = await disk.open(temporary, 'write');
  try {
    await file.truncate(0);
    await file.write(new TextEncoder().encode(VERSION_TEXT), 0);
    await file.sync();
  } finally {
    await file.close();
  }
  await disk.rename(temporary, VERSION_FILE);
  await disk.syncFolder('');
}
