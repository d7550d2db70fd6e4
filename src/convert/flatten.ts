import { rename, rm } from 'node:fs/promises';
import type { Codec, Hash } from '../runtime/codec.ts';
import { ImageError } from '../image/errors.ts';
import { LayeredImage } from '../image/layered-image.ts';
import { openLayer, type Layer } from '../image/layer.ts';
import { blockLayers } from '../image/manifest.ts';
import type { BlockImage } from './block-image.ts';
import { CheckedLayers } from './checked-layers.ts';
import { failing, LocalFile, withFile } from './files.ts';
import type { ProgressOptions } from './layer-blob.ts';

/** Bytes of the device, read and written at a time. */
const CHUNK_BYTES = 4 * 1024 * 1024;

/** Size of a flattened image. */
export interface FlattenedImage {
  /** Bytes of the block device and of the file, which has holes where no layer has data. */
  readonly sizeBytes: number;
  readonly writtenBytes: number;
}

/**
 * Writes the block device that local layer blobs (bottom first) make together as one sparse file.
 * The file gets its name once it is whole, and replaces any earlier file. Throws ImageError,
 * ConvertError, or the signal's reason.
 */
export async function flattenLayers(
  components: { codec: Codec },
  layerPaths: readonly string[],
  outPath: string,
  options: ProgressOptions = {},
): Promise<FlattenedImage> {
  const files: LocalFile[] = [];
  try {
    const layers: Layer[] = [];
    for (const path of layerPaths) {
      const file = await LocalFile.open(path, 'read');
      files.push(file);
      layers.push(await openLayerFile(file, components.codec));
    }
    return await writeFlat(new LayeredImage(layers), outPath, options);
  } finally {
    for (const file of files) await file.close();
  }
}

/**
 * The same of a whole image, each block checked. `folder` is for layers that have to be fetched.
 * Throws RegistryError, too.
 */
export async function flattenImage(
  components: { codec: Codec; hash: Hash },
  image: BlockImage,
  { outPath, folder }: { readonly outPath: string; readonly folder: string },
  options: ProgressOptions & { readonly signal: AbortSignal },
): Promise<FlattenedImage> {
  const checked = await CheckedLayers.open(components, image, { ...options, folder });
  try {
    const sources = blockLayers(image.manifest).map((blob) => checked.source(blob));
    const layers = await Promise.all(sources.map((each) => openLayer(each, components.codec)));
    return await writeFlat(new LayeredImage(layers), outPath, options);
  } finally {
    await checked.close();
  }
}

/** Opens the layer in a file; errors name the file. Throws ImageError. */
export async function openLayerFile(file: LocalFile, codec: Codec): Promise<Layer> {
  try {
    return await openLayer(file, codec);
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    throw new ImageError(`${file.path}: ${error.message}`, error.detail, { cause: error });
  }
}

async function writeFlat(
  image: LayeredImage,
  outPath: string,
  options: ProgressOptions,
): Promise<FlattenedImage> {
  const part = `${outPath}.part-${process.pid}`;
  try {
    const writtenBytes = await withFile(part, 'create', async (file) => {
      const written = await copyMapped(image, file, options);
      await file.truncate(image.sizeBytes);
      await file.sync();
      return written;
    });
    await failing(outPath, 'write', () => rename(part, outPath));
    return { sizeBytes: image.sizeBytes, writtenBytes };
  } finally {
    await rm(part, { force: true });
  }
}

async function copyMapped(
  image: LayeredImage,
  file: LocalFile,
  options: ProgressOptions,
): Promise<number> {
  let written = 0;
  for (const { offset, length, layer } of image.segmentsIn(0, image.sizeBytes)) {
    if (layer === undefined) continue;
    for (let done = 0; done < length; done += CHUNK_BYTES) {
      options.signal?.throwIfAborted();
      const count = Math.min(CHUNK_BYTES, length - done);
      await file.write(offset + done, await image.read(offset + done, count));
      written += count;
      options.onProgress?.('writing', offset + done + count, image.sizeBytes);
    }
  }
  return written;
}
