import type { Codec } from '../runtime/codec.ts';
import { assert } from '../util/assert.ts';
import type { ByteSink } from './byte-source.ts';
import { outOfRange } from './errors.ts';
import {
  encodeLsmtHeader,
  IMAGE_SIZE_BYTES_MAX,
  SECTOR_BYTES,
  SEGMENT_BYTES,
} from './lsmt-header.ts';
import { encodeIndex, SEGMENT_COUNT_MAX } from './lsmt-index.ts';
import { SegmentMapBuilder, ZERO_LAYER } from './segment-map.ts';
import { TAR_PREFIX_BYTES, tarPrefix, tarSuffix } from './tar.ts';
import { ZFILE_DEFAULTS, ZFileWriter, type ZFileOptions } from './zfile-writer.ts';

/** The block device that a layer holds, its uuid, and how to compress it. */
export interface LayerWriterInit {
  /** Bytes of the block device, a multiple of 512. */
  readonly virtualSizeBytes: number;
  /** Upper-case 8-4-4-4-12 hex digits. */
  readonly uuid: string;
  /** Of the layer below. */
  readonly parentUuid?: string;
  readonly options?: ZFileOptions;
}

/**
 * Writes a committed layer, tar(ZFile(LSMT)), from ranges of a block device in ascending order. It
 * needs a few megabytes of memory, and beyond them 4 bytes per block and 13 per range.
 *
 * Life: constructed -> `write()` per range with data (gaps read as zeros) -> `finish()` once. After
 * an error the blob is unusable.
 */
export class LayerWriter {
  readonly #sink: ByteSink;
  readonly #zfile: ZFileWriter;
  readonly #init: LayerWriterInit;
  readonly #segments = new SegmentMapBuilder();
  #begun = false;

  constructor(components: { codec: Codec; sink: ByteSink }, init: LayerWriterInit) {
    const { virtualSizeBytes } = init;
    if (virtualSizeBytes > IMAGE_SIZE_BYTES_MAX || virtualSizeBytes % SECTOR_BYTES !== 0) {
      throw outOfRange(
        'size of the block device',
        virtualSizeBytes,
        `it must be a multiple of ${SECTOR_BYTES} up to ${IMAGE_SIZE_BYTES_MAX}`,
      );
    }
    this.#sink = components.sink;
    this.#init = init;
    const options = init.options ?? ZFILE_DEFAULTS;
    this.#zfile = new ZFileWriter(components, { base: TAR_PREFIX_BYTES, options });
  }

  /**
   * Adds the device's bytes at `offset`: whole sectors, after all earlier writes. Throws ImageError
   * beyond the most ranges of a layer.
   */
  async write(offset: number, bytes: Uint8Array): Promise<void> {
    if (bytes.length === 0) return;
    await this.#begin();
    const moffset = this.#zfile.sizeBytes / SECTOR_BYTES;
    this.#push(offset, bytes.length, { moffset, layer: 0 });
    await this.#zfile.write(bytes);
  }

  /**
   * Says that a range of whole sectors, after all earlier writes, reads as zeros whatever the
   * layers below have there. Throws ImageError as `write()` does.
   */
  zero(offset: number, length: number): void {
    this.#push(offset, length, { moffset: 0, layer: ZERO_LAYER });
  }

  #push(offset: number, length: number, place: { moffset: number; layer: number }): void {
    assert(
      offset % SECTOR_BYTES === 0 && length % SECTOR_BYTES === 0,
      'a write covers whole sectors',
    );
    assert(offset + length <= this.#init.virtualSizeBytes, 'a range lies in the device');
    this.#segments.push(offset / SECTOR_BYTES, length / SECTOR_BYTES, place);
    if (this.#segments.count > SEGMENT_COUNT_MAX) {
      throw outOfRange(
        'count of ranges',
        this.#segments.count,
        `a layer has at most ${SEGMENT_COUNT_MAX}`,
      );
    }
  }

  /** Writes the index and the wrappers; gives the size of the whole blob in bytes. */
  async finish(): Promise<number> {
    await this.#begin();
    const index = encodeIndex(this.#segments.build());
    const fields = {
      ...this.#init,
      indexOffset: this.#zfile.sizeBytes,
      segmentCount: index.length / SEGMENT_BYTES,
    };
    await this.#zfile.write(index);
    await this.#zfile.write(encodeLsmtHeader(fields, 'trailer'));
    const payloadBytes = await this.#zfile.finish();
    const suffix = tarSuffix(payloadBytes);
    await this.#sink.write(0, tarPrefix(payloadBytes));
    await this.#sink.write(TAR_PREFIX_BYTES + payloadBytes, suffix);
    return TAR_PREFIX_BYTES + payloadBytes + suffix.length;
  }

  async #begin(): Promise<void> {
    if (this.#begun) return;
    this.#begun = true;
    await this.#zfile.write(
      encodeLsmtHeader({ ...this.#init, indexOffset: 0, segmentCount: 0 }, 'header'),
    );
  }
}
