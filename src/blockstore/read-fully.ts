import type { DiskFile } from '../runtime/disk.ts';

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

/** Reads a whole file, or its first `sizeBytesMax` bytes. Rejects with DiskError. */
export async function readWhole(file: DiskFile, sizeBytesMax: number): Promise<Uint8Array> {
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
