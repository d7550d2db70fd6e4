import { readPart, type ByteSource } from './byte-source.ts';

/** Bytes read at a time, and most bytes of a run. */
const CHUNK_BYTES = 1024 * 1024;

/** Zeros are skipped in whole units of this size: the block size of the file systems in images. */
const UNIT_BYTES = 4096;

/** A range of a disk without a unit of zeros; at most 1 MiB. */
export interface DiskRun {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/**
 * The ranges of a disk that hold data, in ascending order. Throws the signal's reason when it
 * aborts.
 */
export async function* dataRuns(
  disk: ByteSource,
  signal: AbortSignal | undefined,
): AsyncGenerator<DiskRun> {
  for (let offset = 0; offset < disk.sizeBytes; offset += CHUNK_BYTES) {
    signal?.throwIfAborted();
    const length = Math.min(CHUNK_BYTES, disk.sizeBytes - offset);
    const bytes = await readPart(disk, offset, length, 'disk');
    for (let from = 0; from < length; ) {
      if (isZero(bytes, from, Math.min(from + UNIT_BYTES, length))) {
        from += UNIT_BYTES;
        continue;
      }
      let to = from + UNIT_BYTES;
      while (to < length && !isZero(bytes, to, Math.min(to + UNIT_BYTES, length))) to += UNIT_BYTES;
      yield { offset: offset + from, bytes: bytes.subarray(from, Math.min(to, length)) };
      from = to;
    }
  }
}

function isZero(bytes: Uint8Array, from: number, to: number): boolean {
  for (let i = from; i < to; i++) if (bytes[i] !== 0) return false;
  return true;
}
