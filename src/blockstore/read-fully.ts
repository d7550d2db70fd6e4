import type { DiskFile } from '../runtime/disk.ts';

/** Reads until the target is full or the file ends; the bytes read. */
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
