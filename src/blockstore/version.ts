import { DiskError, type Disk } from '../runtime/disk.ts';
import { BlockStoreError } from './errors.ts';
import { VERSION_FILE, VERSION_TEXT } from './layout.ts';
import { readFully } from './read-fully.ts';

/** Longest version text that is looked at; any known one is shorter. */
const VERSION_BYTES_MAX = 64;

/** Marks a new store with the version; rejects with `version` when an existing one has another. */
export async function checkVersion(disk: Disk): Promise<void> {
  const found = await readVersion(disk);
  if (found === VERSION_TEXT) return;
  if (found === undefined) return writeVersion(disk);
  throw new BlockStoreError(
    `the block store says it is ${JSON.stringify(found)} and this version of xylem reads ` +
      `${JSON.stringify(VERSION_TEXT)} only: use the version that wrote it, or empty the folder (blocks are fetched again)`,
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

/** Under another name first: a crash leaves a whole version file or none. */
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
