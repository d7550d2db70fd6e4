import { DiskError, type Disk, type DiskFile } from './disk.ts';

/**
 * Reads until the target is full or the file ends; gives the count of bytes read. Rejects with
 * DiskError.
 */
export async function readFully(
  file: DiskFile,
  target: Uint8Array,
  offset: number,
): Promise<number> {
  let done = 0;
  while (done < target.length) {
    const count = await file.read(done === 0 ? target : target.subarray(done), offset + done);
    if (count === 0) break;
    done += count;
  }
  return done;
}

/** First guess at the size of a small file, in bytes; it doubles until the file fits. */
const WHOLE_BYTES_FIRST = 4096;

/**
 * Reads a whole file, or its first `sizeBytesMax` bytes; undefined when there is none. Rejects with
 * DiskError.
 */
export async function readWhole(
  disk: Disk,
  path: string,
  sizeBytesMax: number,
): Promise<Uint8Array | undefined> {
  try {
    const file = await disk.open(path, 'read');
    try {
      return await readOpen(file, sizeBytesMax);
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof DiskError && error.code === 'not-found') return undefined;
    throw error;
  }
}

/**
 * Replaces a file, by way of `path`.new: a crash leaves the old content or the new. With `sync` the
 * new content survives a loss of power once the call resolves; without, the file may then be
 * damaged. Rejects with DiskError.
 */
export async function replaceFile(
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
  if (options.sync) await disk.syncFolder(path.slice(0, Math.max(0, path.lastIndexOf('/'))));
}

async function readOpen(file: DiskFile, sizeBytesMax: number): Promise<Uint8Array> {
  let bytes = new Uint8Array(Math.min(WHOLE_BYTES_FIRST, sizeBytesMax));
  for (let done = 0; ; ) {
    const count = await readFully(file, bytes.subarray(done), done);
    done += count;
    if (done < bytes.length || done === sizeBytesMax) return bytes.subarray(0, done);
    const larger = new Uint8Array(Math.min(2 * bytes.length, sizeBytesMax));
    larger.set(bytes);
    bytes = larger;
  }
}
