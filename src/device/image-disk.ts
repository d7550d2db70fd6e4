import { bytesIn } from '../image/body.ts';
import type { BlobRef } from '../image/block.ts';
import { LayeredImage } from '../image/layered-image.ts';
import { openLayer } from '../image/layer.ts';
import { blockLayers, type Manifest } from '../image/manifest.ts';
import type { Codec } from '../runtime/codec.ts';
import type { BlobReader } from '../transfer/contracts/blob-reader.ts';
import { assert, defined } from '../util/assert.ts';
import type { ReadOnlyDisk } from './disk.ts';

/**
 * The block device of an image, read from its compressed layers as they are touched: what is in memory is decoded at once,
 * the rest is fetched first, all ranges of a read together.
 *
 * Life: `open()` -> reads -> `close()`, which fails the reads under way.
 */
export class ImageDisk implements ReadOnlyDisk {
  readonly sizeBytes: number;
  readonly #reader: BlobReader;
  readonly #blobs: readonly BlobRef[];
  readonly #image: LayeredImage;
  readonly #closing: AbortController;

  private constructor(
    components: { reader: BlobReader },
    init: { blobs: readonly BlobRef[]; image: LayeredImage; closing: AbortController },
  ) {
    this.#reader = components.reader;
    this.#blobs = init.blobs;
    this.#image = init.image;
    this.#closing = init.closing;
    this.sizeBytes = init.image.sizeBytes;
  }

  /** Opens all layers together. Rejects with ImageError or TransferError, and with the signal's reason when it aborts. */
  static async open(
    components: { reader: BlobReader; codec: Codec },
    manifest: Manifest,
    signal?: AbortSignal,
  ): Promise<ImageDisk> {
    const { reader, codec } = components;
    const blobs = blockLayers(manifest);
    const closing = new AbortController();
    const either =
      signal === undefined ? closing.signal : AbortSignal.any([closing.signal, signal]);
    try {
      const layers = await Promise.all(
        blobs.map((blob) => {
          const options = { kind: 'demand', signal: either } as const;
          const read = (offset: number, length: number): Promise<Uint8Array> =>
            reader.read(blob, offset, length, options);
          return openLayer({ sizeBytes: blob.sizeBytes, read }, codec);
        }),
      );
      return new ImageDisk({ reader }, { blobs, image: new LayeredImage(layers), closing });
    } catch (error) {
      closing.abort(error); // The other layers need not be read any more.
      throw error;
    }
  }

  readSync(target: Uint8Array, offset: number): boolean {
    return this.#image.readInto(target, offset, (layer, at, length) =>
      this.#reader.readCached(this.#blobOf(layer), at, length),
    );
  }

  async read(target: Uint8Array, offset: number): Promise<void> {
    const fetched: { offset: number; bytes: Uint8Array }[][] = this.#blobs.map(() => []);
    const options = { kind: 'demand', signal: this.#closing.signal } as const;
    await Promise.all(
      this.#image.plan(offset, target.length).map(async (range) => {
        const blob = this.#blobOf(range.layer);
        const bytes = await this.#reader.read(blob, range.offset, range.length, options);
        fetched[range.layer]?.push({ offset: range.offset, bytes });
      }),
    );
    const isWhole = this.#image.readInto(target, offset, (layer, at, length) =>
      bytesIn(fetched[layer] ?? [], at, length),
    );
    assert(isWhole, 'an image asked for bytes that its plan did not name');
  }

  close(): void {
    this.#closing.abort(new Error('the device was closed'));
  }

  #blobOf(layer: number): BlobRef {
    return defined(this.#blobs[layer], 'an image names its layers alone');
  }
}
