import { assert } from '../util/assert.ts';
import { truncated } from './errors.ts';

/**
 * Bytes of one blob or file, read by position: a local file, memory, or blocks that come from elsewhere.
 * Does not change while it is open.
 */
export interface ByteSource {
  readonly sizeBytes: number;
  /**
   * Exactly the bytes [offset, offset + length), which lie in the source. The caller may not write into them;
   * they stay valid. Rejects when they cannot be had.
   */
  read(offset: number, length: number): Promise<Uint8Array>;
}

/** A place for bytes, written by position, each byte once or more; gaps read as zeros. */
export interface ByteSink {
  /** Takes the bytes; they may be reused by the caller when the promise has resolved. */
  write(offset: number, bytes: Uint8Array): Promise<void>;
}

/** A source over bytes in memory. */
export function memorySource(bytes: Uint8Array): ByteSource {
  return {
    sizeBytes: bytes.length,
    read: (offset, length) => {
      assert(offset >= 0 && offset + length <= bytes.length, 'a read lies in its source');
      return Promise.resolve(bytes.subarray(offset, offset + length));
    },
  };
}

/** Reads [offset, offset + length) of what is called `part`, or throws ImageError when the source ends before. */
export async function readPart(
  source: ByteSource,
  offset: number,
  length: number,
  part: string,
): Promise<Uint8Array> {
  if (offset < 0 || offset + length > source.sizeBytes) {
    throw truncated(
      part,
      `it needs bytes ${offset} to ${offset + length}, and there are ${source.sizeBytes}`,
    );
  }
  const bytes = await source.read(offset, length);
  if (bytes.length !== length) {
    throw truncated(part, `${length} bytes at ${offset} were asked for, ${bytes.length} came`);
  }
  return bytes;
}

/** A range of a source. */
export interface ByteRange {
  readonly offset: number;
  readonly length: number;
}

/**
 * Bytes [offset, offset + length) of a source, when they are at hand: a view, used before the next
 * call.
 */
export type BytesAt = (offset: number, length: number) => Uint8Array | undefined;

/**
 * Reads the ranges together. The result gives bytes that lie within one of them. Throws ImageError
 * as `readPart()` does.
 */
export async function readRanges(
  source: ByteSource,
  ranges: readonly ByteRange[],
  part: string,
): Promise<BytesAt> {
  const fetched = await Promise.all(
    ranges.map(async ({ offset, length }) => ({
      offset,
      bytes: await readPart(source, offset, length, part),
    })),
  );
  return (offset, length) => {
    for (const range of fetched) {
      const start = offset - range.offset;
      if (start >= 0 && start + length <= range.bytes.length) {
        return range.bytes.subarray(start, start + length);
      }
    }
    return undefined;
  };
}
