import { assert } from '../util/assert.ts';
import { readRanges, type ByteRange, type BytesAt } from './byte-source.ts';
import { DecodedBlocks, type DecodedCache } from './decoded-cache.ts';
import { ImageError } from './errors.ts';
import type { Layer } from './layer.ts';
import { SECTOR_BYTES } from './lsmt-header.ts';
import { LAYER_COUNT_MAX } from './manifest.ts';
import { overlayAll, ZERO_LAYER, type SegmentMap } from './segment-map.ts';

/** Decoded blocks that are kept for the next small read, in bytes (tunable): 64 of the largest blocks. */
const DECODED_BYTES_MAX = 4 * 1024 * 1024;

/** A range of the block device that lies in one place. */
export interface ImageSegment {
  /** In bytes of the block device. */
  readonly offset: number;
  readonly length: number;
  /** Number of the layer, bottom first; undefined where the device reads as zeros. */
  readonly layer: number | undefined;
  /** In the uncompressed bytes of the layer; 0 for zeros. */
  readonly moffset: number;
}

/** Bytes of a layer's blob, as it is stored and transferred. */
export interface BlobRange extends ByteRange {
  readonly layer: number;
}

/** Bytes [offset, offset + length) of a layer's blob, when they are at hand: a view, used before the next call. */
export type BytesOf = (layer: number, offset: number, length: number) => Uint8Array | undefined;

/**
 * The block device that layers make together: the top one wins, what none covers reads as zeros.
 *
 * A reader tries `readInto()` first, which is synchronous and copies nothing that it need not; when that says false,
 * `fetchInto()` reads what `plan()` names from the layers' own sources first.
 */
export class LayeredImage {
  readonly layers: readonly Layer[];
  /** Bytes of the block device: that of the topmost layer that has a size. */
  readonly sizeBytes: number;
  readonly #map: SegmentMap;
  readonly #caches: readonly DecodedCache[];

  /** Layers bottom first, at most 255. Throws ImageError when none of them says how large the device is. */
  constructor(layers: readonly Layer[], init: { decodedBytesMax?: number } = {}) {
    assert(
      layers.length <= LAYER_COUNT_MAX,
      `${layers.length} layers are more than a manifest has`,
    );
    const size = layers.findLast((layer) => layer.virtualSizeBytes > 0)?.virtualSizeBytes;
    if (size === undefined) {
      throw new ImageError(
        `none of the ${layers.length} layers says how large the block device is: is the base layer missing?`,
        { code: 'out-of-range', part: 'LSMT virtual_size', value: 0 },
      );
    }
    this.layers = layers;
    this.sizeBytes = size;
    this.#map = overlayAll(layers.map((layer, i) => layer.segments.numbered(i)));
    const decoded = new DecodedBlocks({ bytesMax: init.decodedBytesMax ?? DECODED_BYTES_MAX });
    this.#caches = layers.map((_, i) => decoded.ofLayer(i));
  }

  /** What [offset, offset + length) is made of, in order and without gaps. */
  segmentsIn(offset: number, length: number): ImageSegment[] {
    const segments: ImageSegment[] = [];
    this.#visit(offset, length, (segment) => segments.push(segment) > 0);
    return segments;
  }

  /** The ranges of the layers' blobs that hold [offset, offset + length); neighbours are joined. */
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
   * Fills `target` with the device's bytes from `offset` on, which lie in the device. False, with the target in an unknown state,
   * when `bytesOf` lacks something. Throws ImageError when a block is damaged.
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

  /** The device's bytes [offset, offset + length), read from the layers' sources. Throws ImageError. */
  async read(offset: number, length: number): Promise<Uint8Array> {
    const target = new Uint8Array(length);
    await this.fetchInto(target, offset);
    return target;
  }

  /**
   * Fills `target` with the device's bytes from `offset` on, read from the layers' sources, all
   * ranges together. Throws ImageError.
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
    assert(whole, 'an image asked for bytes that its plan did not name');
  }

  /** Visits the pieces of a range in order until the visitor says false; true when it never did. */
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
