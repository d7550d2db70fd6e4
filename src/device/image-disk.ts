import type { BlobRef } from '../image/block.ts';
import type { ByteSource } from '../image/byte-source.ts';
import { LayeredImage } from '../image/layered-image.ts';
import { openLayer } from '../image/layer.ts';
import { blockLayers, type Manifest } from '../image/manifest.ts';
import type { Codec } from '../runtime/codec.ts';
import type { BlobReader } from '../transfer/contracts/blob-reader.ts';
import { defined } from '../util/assert.ts';
import { orAbort } from '../util/or-abort.ts';
import type { ReadOnlyDisk } from './disk.ts';

/**
 * The block device of an image, read on demand from its compressed layers. Blocks in memory are
 * decoded at once; other blocks are fetched first, all ranges of a read concurrently.
 *
 * Life: `open()` -> reads -> `close()`, which fails the reads in flight.
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

  /**
   * Opens all layers concurrently. Rejects with ImageError, TransferError, or the signal's reason.
   */
  static async open(
    components: { reader: BlobReader; codec: Codec },
    manifest: Manifest,
    signal?: AbortSignal,
  ): Promise<ImageDisk> {
    const { reader, codec } = components;
    const blobs = blockLayers(manifest);
    const closing = new AbortController();
    const opening = Promise.all(
      blobs.map((blob) => openLayer(sourceOf(reader, blob, closing.signal), codec)),
    );
    try {
      const layers = await (signal === undefined ? opening : orAbort(opening, signal));
      return new ImageDisk({ reader }, { blobs, image: new LayeredImage(layers), closing });
    } catch (error) {
      closing.abort(error); // Ends the reads of the other layers.
      throw error;
    }
  }

  readSync(target: Uint8Array, offset: number): boolean {
    return this.#image.readInto(target, offset, (layer, at, length) =>
      this.#reader.readCached(this.#blobOf(layer), at, length),
    );
  }

  read(target: Uint8Array, offset: number): Promise<void> {
    return this.#image.fetchInto(target, offset);
  }

  close(): void {
    this.#closing.abort(new Error('the device is closed'));
  }

  #blobOf(layer: number): BlobRef {
    return defined(this.#blobs[layer], 'an image names only its own layers');
  }
}

/** A blob of the cluster, read with demand priority until the signal aborts. */
function sourceOf(reader: BlobReader, blob: BlobRef, signal: AbortSignal): ByteSource {
  const options = { kind: 'demand', signal } as const;
  return {
    sizeBytes: blob.sizeBytes,
    read: (offset, length) => reader.read(blob, offset, length, options),
  };
}
