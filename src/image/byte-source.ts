import { assert } from '../util/assert.ts';
import { truncated } from './errors.ts';

/**
 * Bytes of one blob or file, read by position: a local file, memory, or blocks from other hosts.
 * Its content does not change while it is open.
 */
export interface ByteSource {
  readonly sizeBytes: number;
  /**
   * Exactly the bytes [offset, offset + length), which must lie in the source. They stay valid; the
   * caller may not write into them. Rejects when they cannot be read.
   */
  read(offset: number, length: number): Promise<Uint8Array>;
}

/** Takes bytes by position, each byte once or more. Gaps read as zeros. */
export interface ByteSink {
  /** Takes the bytes. Once the promise has resolved, the caller may reuse them. */
  write(offset: number, bytes: Uint8Array): Promise<void>;
}

/** A source of bytes in memory. */
export function memorySource(bytes: Uint8Array): ByteSource {
  return {
    sizeBytes: bytes.length,
    read: (offset, length) => {
      assert(offset >= 0 && offset + length <= bytes.length, 'a read lies in its source');
      return Promise.resolve(bytes.subarray(offset, offset + length));
    },
  };
}

/**
 * Reads the bytes [offset, offset + length). Throws ImageError, which names `part`, when the source
 * ends earlier.
 */
export async function readPart(
  source: ByteSource,
  offset: number,
  length: number,
  part: string,
): Promise<Uint8Array> {
  if (offset < 0 || offset + length > source.sizeBytes) {
    throw truncated(
      part,
      `it needs bytes ${offset} to ${offset + length}, but there are ${source.sizeBytes}`,
    );
  }
  const bytes = await source.read(offset, length);
  if (bytes.length !== length) {
    throw truncated(part, `a read of ${length} bytes at ${offset} gave ${bytes.length}`);
  }
  return bytes;
}

/** A range of a source, in bytes. */
export interface ByteRange {
  readonly offset: number;
  readonly length: number;
}

/**
 * The bytes [offset, offset + length) of a source: a view, valid until the next call. Undefined
 * when they are not at hand.
 */
export type BytesAt = (offset: number, length: number) => Uint8Array | undefined;

/**
 * Reads the ranges concurrently. The result gives any bytes within one of them. Throws ImageError
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
