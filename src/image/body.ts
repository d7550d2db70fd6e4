import { assert } from '../util/assert.ts';
import { BLOCK_SIZE_BYTES } from './block.ts';
import { readRanges, type ByteRange, type ByteSource, type BytesAt } from './byte-source.ts';
import type { DecodedCache } from './decoded-cache.ts';
import { damaged } from './errors.ts';
import type { Payload } from './tar.ts';

/** Called with a byte range of the blob. */
export type RangeVisitor = (offset: number, length: number) => void;

/** The uncompressed bytes of a layer, wherever they lie in its blob. */
export interface LayerBody {
  readonly sizeBytes: number;
  /** Visits the ranges of the blob that hold the uncompressed bytes [offset, offset + length). */
  visitRanges(offset: number, length: number, visit: RangeVisitor): void;
  /**
   * Fills `target` with the uncompressed bytes from `offset` on. False when `bytesAt` lacks some
   * bytes: the content of `target` is then undefined. Throws ImageError when a block is damaged.
   */
  readInto(target: Uint8Array, offset: number, bytesAt: BytesAt, cache?: DecodedCache): boolean;
}

/** A layer without compression: its bytes are the bytes of the blob from `payload.offset` on. */
export class RawBody implements LayerBody {
  readonly kind = 'raw';
  readonly sizeBytes: number;
  readonly payload: Payload;
  readonly #base: number;

  constructor(payload: Payload) {
    this.sizeBytes = payload.sizeBytes;
    this.payload = payload;
    this.#base = payload.offset;
  }

  visitRanges(offset: number, length: number, visit: RangeVisitor): void {
    if (length > 0) visit(this.#base + offset, length);
  }

  readInto(target: Uint8Array, offset: number, bytesAt: BytesAt): boolean {
    for (let done = 0; done < target.length; ) {
      const at = this.#base + offset + done;
      const length = Math.min(target.length - done, BLOCK_SIZE_BYTES - (at % BLOCK_SIZE_BYTES));
      const bytes = bytesAt(at, length);
      if (bytes === undefined) return false;
      target.set(bytes, done);
      done += length;
    }
    return true;
  }
}

/**
 * Reads a range of uncompressed bytes; `openLayer()` reads headers and indices so. Errors name
 * `part`. Throws ImageError.
 */
export async function readBody(
  source: ByteSource,
  body: LayerBody,
  range: ByteRange,
  part: string,
): Promise<Uint8Array> {
  const { offset, length } = range;
  if (offset < 0 || offset + length > body.sizeBytes) {
    throw damaged(
      part,
      `it needs bytes ${offset} to ${offset + length}, but the layer has ${body.sizeBytes}`,
    );
  }
  const ranges: ByteRange[] = [];
  body.visitRanges(offset, length, (at, count) => ranges.push({ offset: at, length: count }));
  const bytesAt = await readRanges(source, ranges, part);
  const target = new Uint8Array(length);
  const whole = body.readInto(target, offset, bytesAt);
  assert(whole, 'a body reads only bytes that it has named');
  return target;
}
