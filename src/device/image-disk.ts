import type { BlobRef } from '../image/block.ts';
import type { ByteSource, BytesAt } from '../image/byte-source.ts';
import { LayeredImage } from '../image/layered-image.ts';
import type { ImageSegment, LayerStackLayout } from '../image/layer-stack.ts';
import { imageBudget, openLayer, type Layer } from '../image/layer.ts';
import { blockLayers, type Manifest } from '../image/manifest.ts';
import type { Codec } from '../runtime/codec.ts';
import type { BlobReader, ReadOptions } from '../transfer/contracts/blob-reader.ts';
import { orAbort } from '../util/or-abort.ts';
import type { DiskExtent, ReadOnlyDisk } from './disk.ts';

/** Is told the parts of the device that are read, in the order of the reads. */
export type ReadObserver = (segments: readonly ImageSegment[]) => void;

/**
 * The block device of an image, read on demand from its compressed layers. Blocks in memory are
 * decoded at once; other blocks are fetched first, all ranges of a read concurrently.
 *
 * Life: `open()` -> reads -> `close()`, which fails the reads in flight.
 */
export class ImageDisk implements ReadOnlyDisk {
  readonly sizeBytes: number;
  /** Its layers, bottom first. */
  readonly blobs: readonly BlobRef[];
  /** What each layer has in memory. */
  readonly #cached: readonly BytesAt[];
  readonly #image: LayeredImage;
  readonly #closing: AbortController;
  readonly #onRead: ReadObserver | undefined;

  private constructor(
    components: { reader: BlobReader; onRead?: ReadObserver | undefined },
    init: { blobs: readonly BlobRef[]; image: LayeredImage; closing: AbortController },
  ) {
    this.#onRead = components.onRead;
    this.blobs = init.blobs;
    this.#cached = init.blobs.map(
      (blob) => (offset, length) => components.reader.readCached(blob, offset, length),
    );
    this.#image = init.image;
    this.#closing = init.closing;
    this.sizeBytes = init.image.sizeBytes;
  }

  /**
   * Opens all layers concurrently; `opener` reads their indices, if it is another one than the
   * reader. Rejects with ImageError, TransferError, or the signal's reason.
   */
  static async open(
    components: {
      reader: BlobReader;
      opener?: BlobReader;
      codec: Codec;
      onRead?: ReadObserver | undefined;
    },
    manifest: Manifest,
    signal?: AbortSignal,
  ): Promise<ImageDisk> {
    const { reader, opener = reader, codec, onRead } = components;
    const blobs = blockLayers(manifest);
    const closing = new AbortController();
    const budget = imageBudget();
    const open = async (blob: BlobRef): Promise<Layer> => {
      const { signal: closed } = closing;
      const from = sourceOf(opener, blob, { signal: closed, endsOnNo: true });
      const layer = await openLayer(from, codec, budget);
      return { ...layer, source: sourceOf(reader, blob, { signal: closed }) };
    };
    const opening = Promise.all(blobs.map(open));
    try {
      const layers = await (signal === undefined ? opening : orAbort(opening, signal));
      const image = new LayeredImage(layers);
      return new ImageDisk({ reader, onRead }, { blobs, image, closing });
    } catch (error) {
      closing.abort(error); // Ends the reads of the other layers.
      throw error;
    }
  }

  readSync(target: Uint8Array, offset: number): boolean {
    const isRead = this.#image.readInto(target, offset, this.#cached);
    if (isRead) this.#onRead?.(this.#image.segmentsIn(offset, target.length));
    return isRead;
  }

  read(target: Uint8Array, offset: number): Promise<void> {
    this.#onRead?.(this.#image.segmentsIn(offset, target.length));
    return this.#image.fetchInto(target, offset);
  }

  extents(offset: number, length: number, countMax: number): DiskExtent[] {
    return this.#image.extentsIn(offset, length, countMax);
  }

  /** Of the top layer; empty when that has none. */
  get uuid(): string {
    return this.#image.layers.at(-1)?.uuid ?? '';
  }

  /** Where its bytes lie in the layers, for another thread. */
  get layout(): LayerStackLayout {
    return this.#image.stack.layout;
  }

  close(): void {
    this.#closing.abort(new Error('the device is closed'));
  }
}

/** A blob of the cluster, read with demand priority until the signal aborts. */
function sourceOf(
  reader: BlobReader,
  blob: BlobRef,
  ends: Pick<ReadOptions, 'signal' | 'endsOnNo'>,
): ByteSource {
  const options = { kind: 'demand', ...ends } as const;
  return {
    sizeBytes: blob.sizeBytes,
    read: (offset, length) => reader.read(blob, offset, length, options),
  };
}
