import { assert } from '../util/assert.ts';
import { readRanges, type BytesAt } from './byte-source.ts';
import { ImageError } from './errors.ts';
import { LayerStack, type BlobRange, type ImageExtent, type ImageSegment } from './layer-stack.ts';
import type { Layer } from './layer.ts';
import { LAYER_COUNT_MAX } from './manifest.ts';
import { overlayAll } from './segment-map.ts';

/**
 * The block device that layers make together: the topmost layer wins, and ranges that no layer
 * covers read as zeros.
 *
 * A reader tries `readInto()` first, which is synchronous and makes no needless copies. When it
 * returns false, `fetchInto()` first reads the ranges of `plan()` from the layers' own sources.
 */
export class LayeredImage {
  readonly layers: readonly Layer[];
  /** Where the bytes of the device lie in the layers. */
  readonly stack: LayerStack;
  /** Bytes of the block device, by the topmost layer that names a size. */
  readonly sizeBytes: number;

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
    this.stack = new LayerStack({
      sizeBytes: size,
      map: overlayAll(layers.map((layer, i) => layer.segments.numbered(i))).shared(),
      bodies: layers.map(({ body }) => body),
      decodedBytesMax: init.decodedBytesMax,
    });
  }

  /** The segments that make up [offset, offset + length), in order and without gaps. */
  segmentsIn(offset: number, length: number): ImageSegment[] {
    return this.stack.segmentsIn(offset, length);
  }

  /** Which parts of a range layers cover: see `LayerStack.extentsIn()`. */
  extentsIn(offset: number, length: number, countMax: number): ImageExtent[] {
    return this.stack.extentsIn(offset, length, countMax);
  }

  /** The ranges of the layers' blobs that hold [offset, offset + length), adjacent ones joined. */
  plan(offset: number, length: number): BlobRange[] {
    return this.stack.plan(offset, length);
  }

  /**
   * Fills `target` with the device's bytes from `offset` on, when `sources` have them: see
   * `LayerStack.readInto()`.
   */
  readInto(target: Uint8Array, offset: number, sources: readonly BytesAt[]): boolean {
    return this.stack.readInto(target, offset, sources);
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
    const fetched: BytesAt[] = this.layers.map(() => () => undefined);
    await Promise.all(
      [...plan].map(async ([layer, ranges]) => {
        const source = this.layers[layer]?.source;
        assert(source !== undefined, 'a plan names layers of the image');
        fetched[layer] = await readRanges(source, ranges, 'layer data');
      }),
    );
    const whole = this.readInto(target, offset, fetched);
    assert(whole, 'an image reads only bytes that its plan names');
  }
}
