import type { Codec } from '../runtime/codec.ts';
import { assert } from '../util/assert.ts';
import { RawBody } from './body.ts';
import type { ByteRange, BytesAt } from './byte-source.ts';
import { DecodedBlocks, type DecodedCache } from './decoded-cache.ts';
import { SECTOR_BYTES } from './lsmt-header.ts';
import { SegmentMap, ZERO_LAYER, type SegmentColumns } from './segment-map.ts';
import type { Payload } from './tar.ts';
import { ZFileBody, type ZFileLayout } from './zfile.ts';

/**
 * Default bound in bytes of the decoded blocks kept for later small reads: 64 of the largest
 * blocks.
 */
const DECODED_BYTES_MAX = 4 * 1024 * 1024;

/** Most segments that one question for extents looks at: about a millisecond. */
const EXTENT_SEGMENTS_MAX = 16_384;

/** A range of the block device that lies in one layer, contiguously, or is all zeros. */
export interface ImageSegment {
  /** Byte offset in the block device. */
  readonly offset: number;
  readonly length: number;
  /** Number of the layer, bottom first; undefined where the device reads as zeros. */
  readonly layer: number | undefined;
  /** Byte offset in the layer's uncompressed bytes; 0 for zeros. */
  readonly moffset: number;
}

/** A range of a layer's blob in its stored and transferred form. */
export interface BlobRange extends ByteRange {
  readonly layer: number;
}

/** A range of the block device that layers cover, or that they all leave as zeros. */
export interface ImageExtent {
  readonly length: number;
  readonly isZero: boolean;
}

/** A `LayerStack` as plain values and shared memory, for another thread. */
export interface LayerStackLayout {
  readonly sizeBytes: number;
  readonly map: SegmentColumns;
  /** Bottom first. */
  readonly bodies: readonly (ZFileLayout | { readonly kind: 'raw'; readonly payload: Payload })[];
}

type Body = RawBody | ZFileBody;

/**
 * Where the bytes of a block device lie in the layers that make it together, and how they are
 * decoded: the topmost layer wins, and ranges that no layer covers read as zeros. It has no source
 * of bytes of its own.
 */
export class LayerStack {
  /** Bytes of the block device. */
  readonly sizeBytes: number;
  readonly #map: SegmentMap;
  readonly #bodies: readonly Body[];
  readonly #caches: readonly DecodedCache[];

  /** `bodies`: bottom first; `map`: the rows of all layers, with their numbers. */
  constructor(init: {
    sizeBytes: number;
    map: SegmentMap;
    bodies: readonly Body[];
    decodedBytesMax?: number | undefined;
  }) {
    this.sizeBytes = init.sizeBytes;
    this.#map = init.map;
    this.#bodies = init.bodies;
    const decoded = new DecodedBlocks({ bytesMax: init.decodedBytesMax ?? DECODED_BYTES_MAX });
    this.#caches = init.bodies.map((_, i) => decoded.ofLayer(i));
  }

  /** The same stack in another thread. */
  static ofLayout(codec: Codec, layout: LayerStackLayout): LayerStack {
    const bodies = layout.bodies.map((body) =>
      body.kind === 'raw' ? new RawBody(body.payload) : ZFileBody.ofLayout(body, codec),
    );
    return new LayerStack({ ...layout, map: new SegmentMap(layout.map), bodies });
  }

  /** Shares the memory of this stack, and of its map where that is shared. */
  get layout(): LayerStackLayout {
    const { count, offsets, lengths, moffsets, layers } = this.#map;
    return {
      sizeBytes: this.sizeBytes,
      map: { count, offsets, lengths, moffsets, layers },
      bodies: this.#bodies.map((body) =>
        body.kind === 'raw' ? { kind: 'raw', payload: body.payload } : body.layout,
      ),
    };
  }

  /** The segments that make up [offset, offset + length), in order and without gaps. */
  segmentsIn(offset: number, length: number): ImageSegment[] {
    const segments: ImageSegment[] = [];
    this.#visit(offset, length, (from, to, layer, moffset) => {
      const isZero = layer === ZERO_LAYER;
      const place = isZero ? { layer: undefined, moffset: 0 } : { layer, moffset };
      segments.push({ offset: from, length: to - from, ...place });
      return true;
    });
    return segments;
  }

  /**
   * Which parts of [offset, offset + length) layers cover, in order from `offset` on: at least one
   * extent, at most `countMax`, neighbours joined. They may end before the range does. `length` is
   * at least 1.
   */
  extentsIn(offset: number, length: number, countMax: number): ImageExtent[] {
    const extents: { length: number; isZero: boolean }[] = [];
    let segments = 0;
    this.#visit(offset, length, (from, to, layer) => {
      const isZero = layer === ZERO_LAYER;
      const last = extents.at(-1);
      if (last?.isZero === isZero) last.length += to - from;
      else if (extents.length === countMax) return false;
      else extents.push({ length: to - from, isZero });
      return ++segments < EXTENT_SEGMENTS_MAX;
    });
    return extents;
  }

  /**
   * The ranges of the layers' blobs that hold [offset, offset + length). Adjacent ranges are
   * joined.
   */
  plan(offset: number, length: number): BlobRange[] {
    const ranges: { layer: number; offset: number; length: number }[] = [];
    this.#visit(offset, length, (from, to, layer, moffset) => {
      if (layer === ZERO_LAYER) return true;
      this.#bodies[layer]?.visitRanges(moffset, to - from, (at, count) => {
        const last = ranges.at(-1);
        if (last?.layer === layer && at >= last.offset && at <= last.offset + last.length) {
          last.length = Math.max(last.length, at + count - last.offset);
        } else ranges.push({ layer, offset: at, length: count });
      });
      return true;
    });
    return ranges;
  }

  /**
   * Fills `target` with the device's bytes from `offset` on; they must lie in the device.
   * `sources`: of each layer's blob, bottom first. False when one lacks some bytes: the content of
   * `target` is then undefined. Throws ImageError when a block is damaged.
   */
  readInto(target: Uint8Array, offset: number, sources: readonly BytesAt[]): boolean {
    return this.#visit(offset, target.length, (from, to, layer, moffset) => {
      if (layer === ZERO_LAYER) {
        target.fill(0, from - offset, to - offset);
        return true;
      }
      const [body, bytesAt] = [this.#bodies[layer], sources[layer]];
      assert(body !== undefined && bytesAt !== undefined, 'the map names layers of the stack');
      const isAll = to - from === target.length;
      const part = isAll ? target : target.subarray(from - offset, to - offset);
      return body.readInto(part, moffset, bytesAt, this.#caches[layer]);
    });
  }

  /**
   * Visits the pieces [from, to) of a range in order until the visitor returns false; whether it
   * never did. `moffset`: where the piece lies in the uncompressed bytes of its layer.
   */
  #visit(
    offset: number,
    length: number,
    visit: (from: number, to: number, layer: number, moffset: number) => boolean,
  ): boolean {
    const end = offset + length;
    assert(offset >= 0 && end <= this.sizeBytes, 'a range lies in the device');
    const map = this.#map;
    let at = offset;
    for (let row = map.rowAfter(Math.floor(offset / SECTOR_BYTES)); at < end; row++) {
      const start = row < map.count ? (map.offsets[row] ?? 0) * SECTOR_BYTES : end;
      if (at < start) {
        const to = Math.min(start, end);
        if (!visit(at, to, ZERO_LAYER, 0)) return false;
        at = to;
        if (at === end) break;
      }
      const to = Math.min(map.endOf(row) * SECTOR_BYTES, end);
      const moffset = ((map.moffsets[row] ?? 0) - (map.offsets[row] ?? 0)) * SECTOR_BYTES + at;
      if (!visit(at, to, map.layers[row] ?? ZERO_LAYER, moffset)) return false;
      at = to;
    }
    return true;
  }
}
