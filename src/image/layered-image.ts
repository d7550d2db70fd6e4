import { assert } from '../util/assert.ts';
import { readRanges, type ByteRange, type BytesAt } from './byte-source.ts';
import { DecodedBlocks, type DecodedCache } from './decoded-cache.ts';
import { ImageError } from './errors.ts';
import type { Layer } from './layer.ts';
import { SECTOR_BYTES } from './lsmt-header.ts';
import { LAYER_COUNT_MAX } from './manifest.ts';
import { overlayAll, ZERO_LAYER, type SegmentMap } from './segment-map.ts';

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

/**
 * The bytes [offset, offset + length) of a layer's blob: a view, valid until the next call.
 * Undefined when they are not at hand.
 */
export type BytesOf = (layer: number, offset: number, length: number) => Uint8Array | undefined;

/**
 * The block device that layers make together: the topmost layer wins, and ranges that no layer
 * covers read as zeros.
 *
 * A reader tries `readInto()` first, which is synchronous and makes no needless copies. When it
 * returns false, `fetchInto()` first reads the ranges of `plan()` from the layers' own sources.
 */
export class LayeredImage {
  readonly layers: readonly Layer[];
  /** Bytes of the block device, by the topmost layer that names a size. */
  readonly sizeBytes: number;
  readonly #map: SegmentMap;
  readonly #caches: readonly DecodedCache[];

  /**
   * `layers`: bottom first, at most 255. Throws ImageError when none of them names the size of the
   * device.
   */
  constructor(layers: readonly Layer[], init: { decodedBytesMax?: number } = {}) {
    assert(
      layers.length <= LAYER_COUNT_MAX,
      `${layers.length} layers are more than a manifest has`,
    );
    const size = layers.findLast((layer) => layer.virtualSizeBytes > 0)?.virtualSizeBytes;
    if (size === undefined) {
      throw new ImageError(
        `none of the ${layers.length} layers names the size of the block device: ` +
          'is the base layer missing?',
        { code: 'out-of-range', part: 'LSMT virtual_size', value: 0 },
      );
    }
    this.layers = layers;
    this.sizeBytes = size;
    this.#map = overlayAll(layers.map((layer, i) => layer.segments.numbered(i)));
    const decoded = new DecodedBlocks({ bytesMax: init.decodedBytesMax ?? DECODED_BYTES_MAX });
    this.#caches = layers.map((_, i) => decoded.ofLayer(i));
  }

  /** The segments that make up [offset, offset + length), in order and without gaps. */
  segmentsIn(offset: number, length: number): ImageSegment[] {
    const segments: ImageSegment[] = [];
    this.#visit(offset, length, (segment) => segments.push(segment) > 0);
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
    this.#visit(offset, length, (segment) => {
      const isZero = segment.layer === undefined;
      const last = extents.at(-1);
      if (last?.isZero === isZero) last.length += segment.length;
      else if (extents.length === countMax) return false;
      else extents.push({ length: segment.length, isZero });
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
    this.#visit(offset, length, (segment) => {
      const { layer } = segment;
      if (layer === undefined) return true;
      this.layers[layer]?.body.visitRanges(segment.moffset, segment.length, (at, count) => {
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
   * Fills `target` with the device's bytes from `offset` on; they must lie in the device. False
   * when `bytesOf` lacks some bytes: the content of `target` is then undefined. Throws ImageError
   * when a block is damaged.
   */
  readInto(target: Uint8Array, offset: number, bytesOf: BytesOf): boolean {
    return this.#visit(offset, target.length, (segment) => {
      const from = segment.offset - offset;
      const part = target.subarray(from, from + segment.length);
      const { layer } = segment;
      if (layer === undefined) {
        part.fill(0);
        return true;
      }
      const body = this.layers[layer]?.body;
      assert(body !== undefined, `the map names layer ${layer}`);
      const bytesAt = (at: number, count: number): Uint8Array | undefined =>
        bytesOf(layer, at, count);
      return body.readInto(part, segment.moffset, bytesAt, this.#caches[layer]);
    });
  }

  /**
   * Reads the device's bytes [offset, offset + length) from the layers' sources. Throws ImageError.
   */
  async read(offset: number, length: number): Promise<Uint8Array> {
    const target = new Uint8Array(length);
    await this.fetchInto(target, offset);
    return target;
  }

  /**
   * Fills `target` with the device's bytes from `offset` on, after concurrent reads of all ranges
   * from the layers' sources. Throws ImageError.
   */
  async fetchInto(target: Uint8Array, offset: number): Promise<void> {
    const plan = Map.groupBy(this.plan(offset, target.length), ({ layer }) => layer);
    const fetched = new Map<number, BytesAt>();
    await Promise.all(
      [...plan].map(async ([layer, ranges]) => {
        const source = this.layers[layer]?.source;
        assert(source !== undefined, 'a plan names layers of the image');
        fetched.set(layer, await readRanges(source, ranges, 'layer data'));
      }),
    );
    const whole = this.readInto(target, offset, (layer, at, count) =>
      fetched.get(layer)?.(at, count),
    );
    assert(whole, 'an image reads only bytes that its plan names');
  }

  /**
   * Visits the pieces of a range in order until the visitor returns false; whether it never did.
   */
  #visit(offset: number, length: number, visit: (segment: ImageSegment) => boolean): boolean {
    const end = offset + length;
    assert(offset >= 0 && end <= this.sizeBytes, `bytes ${offset} to ${end} lie in the device`);
    const map = this.#map;
    let at = offset;
    for (let row = map.rowAfter(Math.floor(offset / SECTOR_BYTES)); at < end; row++) {
      const start = row < map.count ? (map.offsets[row] ?? 0) * SECTOR_BYTES : end;
      if (at < start) {
        const gap = Math.min(start, end) - at;
        if (!visit({ offset: at, length: gap, layer: undefined, moffset: 0 })) return false;
        at += gap;
      }
      if (at >= end) break;
      const piece = Math.min(map.endOf(row) * SECTOR_BYTES, end) - at;
      if (!visit(this.#segment(row, at, piece))) return false;
      at += piece;
    }
    return true;
  }

  #segment(row: number, offset: number, length: number): ImageSegment {
    const layer = this.#map.layers[row] ?? ZERO_LAYER;
    if (layer === ZERO_LAYER) return { offset, length, layer: undefined, moffset: 0 };
    const { offsets, moffsets } = this.#map;
    const moffset = ((moffsets[row] ?? 0) - (offsets[row] ?? 0)) * SECTOR_BYTES + offset;
    return { offset, length, layer, moffset };
  }
}
