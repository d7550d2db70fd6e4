import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { BlockDigests } from '../image/block-digests.ts';
import { digestHex, type Digest } from '../image/digest.ts';
import { openLayer } from '../image/layer.ts';
import { LayeredImage } from '../image/layered-image.ts';
import { LayerWriter } from '../image/layer-writer.ts';
import { SECTOR_BYTES, uuidOfHex } from '../image/lsmt-header.ts';
import { ZFILE_DEFAULTS, type ZFileOptions } from '../image/zfile-writer.ts';
import type { Codec, Hash } from '../runtime/codec.ts';
import { BitSet } from '../util/bit-set.ts';
import { GIB } from '../util/bytes.ts';
import { ConvertError } from './errors.ts';
import { BLOCK_BYTES, BlockFile, isZeroBlock } from './ext4/block-file.ts';
import { Ext4 } from './ext4/ext4.ts';
import { LayerTree } from './ext4/layer-tree.ts';
import { makeEmptyExt4 } from './ext4/make.ts';
import { withFile, type LocalFile } from './files.ts';
import { digestsOf, type ProgressOptions, type WrittenLayer } from './layer-blob.ts';
import type { TarItem } from './tar/tar-entry.ts';

/** Blocks of the device that are read and compressed at a time (1 MiB). */
const RUN_BLOCKS = 256;

/** Bytes of a block device, as overlaybd's tools have it. */
const DEVICE_BYTES_DEFAULT = 64 * GIB;

/** How a block image is made; the same options and layers give the same bytes. */
export interface BlockImageOptions {
  /** Bytes of the block device; blocks without data cost nothing. */
  readonly deviceBytes: number;
  readonly compression: ZFileOptions;
}

/** LZ4 in blocks of 4 KiB: random reads of a container decode the least. */
export const BLOCK_IMAGE_DEFAULTS: BlockImageOptions = {
  deviceBytes: DEVICE_BYTES_DEFAULT,
  compression: ZFILE_DEFAULTS,
};

/** Which layers of the original image a block layer stands for. */
export interface LayerIdentity {
  /** Of all layers up to this one (OCI image specification, "Layer ChainID"). */
  readonly chainId: Digest;
  /** Chain id of the layer below. */
  readonly parentChainId: Digest | undefined;
}

/**
 * Makes block layers out of OCI layers, bottom first: it applies the entries of each to an ext4
 * file system in a sparse file, and writes the blocks that changed.
 *
 * Needs room in its folder for the uncompressed image; memory is about 300 MiB whatever the size.
 * Life: `create()` -> `add()` or `restore()` per layer -> `close()`. After an error only `close()`.
 * Throws ConvertError, ImageError, or the signal's reason.
 */
export class BlockImageBuilder {
  readonly #components: { codec: Codec; hash: Hash };
  readonly #options: BlockImageOptions;
  readonly #path: string;
  readonly #disk: BlockFile;
  /** Blocks that the layers so far have data for. */
  readonly #mapped: BitSet;
  #isEmpty = true;

  private constructor(
    components: { codec: Codec; hash: Hash },
    options: BlockImageOptions,
    place: { path: string; disk: BlockFile },
  ) {
    this.#components = components;
    this.#options = options;
    this.#path = place.path;
    this.#disk = place.disk;
    this.#mapped = new BitSet(place.disk.blockCount);
  }

  /** `folder`: for the file system; the caller removes it afterwards. */
  static async create(
    components: { codec: Codec; hash: Hash },
    folder: string,
    options: BlockImageOptions & { signal?: AbortSignal },
  ): Promise<BlockImageBuilder> {
    const path = join(folder, 'disk');
    await makeEmptyExt4(path, options.deviceBytes, options.signal);
    const disk = new BlockFile(path, options.deviceBytes);
    return new BlockImageBuilder(components, options, { path, disk });
  }

  /**
   * Applies the entries of a layer, and writes what they changed as a layer blob to a new file.
   * `identify` is called once all entries were read.
   */
  async add(
    items: AsyncIterable<TarItem>,
    identify: () => LayerIdentity,
    place: { readonly blobPath: string } & ProgressOptions,
  ): Promise<WrittenLayer> {
    const { blobPath, ...options } = place;
    await this.#apply(items);
    const changed = this.#disk.takeChanged();
    const layer = identify();
    return withFile(blobPath, 'create', async (blob) => {
      const sizeBytes = await this.#write(layer, { blob, changed }, options);
      await blob.sync();
      const { digest, blockDigests } = await digestsOf(this.#components.hash, blob, options);
      const written = { digest, sizeBytes };
      return { layer: written, blockDigests: BlockDigests.make(written, blockDigests) };
    });
  }

  /** Takes a layer that was made before from the same layers with the same options. */
  async restore(blobPath: string, options: ProgressOptions = {}): Promise<void> {
    await withFile(blobPath, 'read', async (file) => {
      const layer = await openLayer(file, this.#components.codec);
      const image = new LayeredImage([layer]);
      if (image.sizeBytes !== this.#options.deviceBytes) {
        throw new ConvertError(
          `${blobPath} is a layer of a device of ${image.sizeBytes} bytes, ` +
            `not of ${this.#options.deviceBytes}`,
          { code: 'too-large', value: image.sizeBytes },
        );
      }
      // What mke2fs wrote is in the lowest layer, too.
      for (let row = 0; row < layer.segments.count; row++) {
        const offset = (layer.segments.offsets[row] ?? 0) * SECTOR_BYTES;
        const length = (layer.segments.lengths[row] ?? 0) * SECTOR_BYTES;
        for (let done = 0; done < length; done += RUN_BLOCKS * BLOCK_BYTES) {
          options.signal?.throwIfAborted();
          const count = Math.min(RUN_BLOCKS * BLOCK_BYTES, length - done);
          const bytes = await image.read(offset + done, count);
          this.#disk.writeContent((offset + done) / BLOCK_BYTES, bytes);
          options.onProgress?.('restoring', offset + done + count, image.sizeBytes);
        }
      }
    });
    this.#isEmpty = false;
    for (const block of this.#disk.takeChanged().values()) this.#mapped.add(block);
  }

  async close(): Promise<void> {
    this.#disk.close();
    await rm(this.#path, { force: true });
  }

  async #apply(items: AsyncIterable<TarItem>): Promise<void> {
    const fs = Ext4.open(this.#disk);
    try {
      if (this.#isEmpty) fs.removeLostAndFound();
      this.#isEmpty = false;
      const tree = new LayerTree(fs);
      for await (const item of items) await tree.apply(item);
    } catch (error) {
      fs.abandon();
      throw error;
    }
    fs.close();
  }

  /** Writes the changed blocks as a layer; gives the size of the blob. */
  async #write(
    layer: LayerIdentity,
    { blob, changed }: { blob: LocalFile; changed: BitSet },
    options: ProgressOptions,
  ): Promise<number> {
    const { deviceBytes, compression } = this.#options;
    const { parentChainId } = layer;
    const writer = new LayerWriter(
      { codec: this.#components.codec, sink: blob },
      {
        virtualSizeBytes: deviceBytes,
        uuid: uuidOfHex(digestHex(layer.chainId)),
        ...(parentChainId !== undefined && { parentUuid: uuidOfHex(digestHex(parentChainId)) }),
        options: compression,
      },
    );
    let done = 0;
    for (const { first, count } of runsOf(changed)) {
      options.signal?.throwIfAborted();
      const bytes = this.#disk.readBlocks(first, count);
      for (const run of zeroRuns(bytes)) {
        const offset = first * BLOCK_BYTES + run.from;
        if (run.isZero) this.#writeZeros(writer, offset, run.to - run.from);
        else {
          await writer.write(offset, bytes.subarray(run.from, run.to));
          for (let at = run.from; at < run.to; at += BLOCK_BYTES) {
            this.#mapped.add(first + at / BLOCK_BYTES);
          }
        }
      }
      done += count;
      options.onProgress?.('compressing', done * BLOCK_BYTES, changed.count * BLOCK_BYTES);
    }
    return writer.finish();
  }

  /** Blocks that no layer below has data for read as zeros by themselves. */
  #writeZeros(writer: LayerWriter, offset: number, length: number): void {
    for (let at = offset; at < offset + length; at += BLOCK_BYTES) {
      if (this.#mapped.has(at / BLOCK_BYTES)) writer.zero(at, BLOCK_BYTES);
    }
  }
}

/** The members of a set as ranges of at most `RUN_BLOCKS`. */
function* runsOf(set: BitSet): Generator<{ first: number; count: number }> {
  let first = -1;
  let count = 0;
  for (const block of set.values()) {
    if (block === first + count && count < RUN_BLOCKS) {
      count++;
      continue;
    }
    if (count > 0) yield { first, count };
    first = block;
    count = 1;
  }
  if (count > 0) yield { first, count };
}

/** Blocks of zeros and others, in turns. */
function* zeroRuns(bytes: Uint8Array): Generator<{ from: number; to: number; isZero: boolean }> {
  for (let from = 0; from < bytes.length; ) {
    const isZero = isZeroBlock(bytes, from);
    let to = from + BLOCK_BYTES;
    while (to < bytes.length && isZeroBlock(bytes, to) === isZero) to += BLOCK_BYTES;
    yield { from, to, isZero };
    from = to;
  }
}
