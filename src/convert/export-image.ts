import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip, createZstdCompress } from 'node:zlib';
import { digestOfSha256, type Digest } from '../image/digest.ts';
import { ImageError } from '../image/errors.ts';
import { openLayer, type Layer } from '../image/layer.ts';
import { LayeredImage } from '../image/layered-image.ts';
import { blockLayers } from '../image/manifest.ts';
import type { Codec, Hash } from '../runtime/codec.ts';
import type { Compression } from '../runtime/decompressor.ts';
import { findBlockImage, readConfig } from './block-image.ts';
import { encodePlainImage } from './block-manifest.ts';
import { CheckedLayers } from './checked-layers.ts';
import { Ext4Reader } from './check/ext4-reader.ts';
import { changesOf, type Changes } from './ext4-changes.ts';
import { tarOfExt4 } from './ext4-tar.ts';
import { piecesOfFile, withFile } from './files.ts';
import type { LayerBlob, ProgressOptions } from './layer-blob.ts';
import { putBytes } from './layer-cache.ts';
import type { ImagePlace, ImageTarget } from './places/place.ts';
import type { Platform } from '../registry/platform.ts';

/** How an image is exported. */
export interface ExportOptions extends ProgressOptions {
  readonly signal: AbortSignal;
  readonly platform: Platform | undefined;
  readonly compression: Compression;
  /** A layer for each block layer, in place of one with all files. */
  readonly inLayers: boolean;
}

/** A layer of an ordinary image. */
interface ExportedLayer extends LayerBlob {
  /** Digest of the uncompressed layer. */
  readonly diffId: Digest;
}

/** An ordinary image made of a block image. */
export interface ExportedImage {
  readonly digest: Digest;
  readonly sourceDigest: Digest;
  /** Bottom first. */
  readonly layers: readonly ExportedLayer[];
  /** Files and directories, hard links counted by name. */
  readonly entryCount: number;
}

interface Components {
  readonly codec: Codec;
  readonly hash: Hash;
}

interface Places {
  readonly source: ImagePlace;
  readonly target: ImageTarget;
  /** An empty folder with room for a compressed layer. */
  readonly workFolder: string;
}

/**
 * Makes an ordinary image of a block image: all files in one layer, or what each block layer
 * changes in a layer of its own. The same block image, options and version of Node give the same
 * digests. Throws ConvertError, ImageError, RegistryError, or the signal's reason.
 */
export async function exportImage(
  components: Components,
  places: Places,
  options: ExportOptions,
): Promise<ExportedImage> {
  const { source, target, workFolder } = places;
  const { signal, compression } = options;
  try {
    const image = await findBlockImage(source, options);
    const config = await readConfig(image, signal);
    const checked = await CheckedLayers.open(components, image, { ...options, folder: workFolder });
    const layers: ExportedLayer[] = [];
    let entryCount = 0;
    try {
      const blobs = blockLayers(image.manifest).map((blob) => checked.source(blob));
      const opened = await Promise.all(blobs.map((blob) => openLayer(blob, components.codec)));
      for await (const stack of stacksOf(components, opened, options)) {
        const path = join(workFolder, 'layer');
        const made = await writeLayer(components, { ...stack, path }, options);
        await target.putBlob(made.layer, () => piecesOfFile(path), { signal });
        await rm(path);
        layers.push(made.layer);
        ({ entryCount } = made);
      }
    } finally {
      await checked.close();
    }
    const parts = { config, layers, compression };
    const encoded = encodePlainImage(components.hash, image, parts);
    await putBytes(target, encoded.config.digest, encoded.config.bytes, signal);
    await target.putManifest(encoded.manifest, target.tag, signal);
    await target.finish(signal);
    const { digest } = encoded.manifest;
    return { digest, sourceDigest: image.stored.digest, layers, entryCount };
  } finally {
    await target.discard();
  }
}

/** A file system to write as a layer, and what it lies over. */
interface Stack {
  readonly reader: Ext4Reader;
  readonly over: Changes | undefined;
  /** As progress names it. */
  readonly step: string;
}

/** The whole image, or the file systems that its layers make one after the other. */
async function* stacksOf(
  { hash }: Components,
  layers: readonly Layer[],
  { inLayers }: ExportOptions,
): AsyncGenerator<Stack> {
  if (!inLayers) {
    const reader = await Ext4Reader.open(new LayeredImage(layers));
    yield { reader, over: undefined, step: 'exporting' };
    return;
  }
  let lower: Ext4Reader | undefined;
  for (const [i, layer] of layers.entries()) {
    const reader = await openPart(layers, i + 1);
    const over = lower && changesOf({ hash }, { lower, upper: reader }, layer);
    yield { reader, over, step: `exporting layer ${i + 1} of ${layers.length}` };
    lower = reader;
  }
}

/** The file system of the lowest layers, which need not have one by themselves. */
async function openPart(layers: readonly Layer[], count: number): Promise<Ext4Reader> {
  try {
    return await Ext4Reader.open(new LayeredImage(layers.slice(0, count)));
  } catch (cause) {
    if (!(cause instanceof ImageError) || count === layers.length) throw cause;
    const what = `the lowest ${count} of ${layers.length} layers make no file system`;
    const text = `${what}, so export them as one layer, without --layers: ${cause.message}`;
    throw new ImageError(text, cause.detail, { cause });
  }
}

async function writeLayer(
  { hash }: Components,
  { reader, over, step, path }: Stack & { readonly path: string },
  { signal, onProgress, compression }: ExportOptions,
): Promise<{ layer: ExportedLayer; entryCount: number }> {
  const [whole, packed] = [hash.sha256Stream(), hash.sha256Stream()];
  let entryCount = 0;
  let doneBytes = 0;
  const { inodeCount } = reader.layout;
  const onEntry = (): void => onProgress?.(step, ++entryCount, inodeCount);
  const tar = async function* (): AsyncGenerator<Uint8Array> {
    for await (const piece of tarOfExt4(reader, { signal, onEntry, over })) {
      whole.update(piece);
      if (piece.length > 0) yield piece;
    }
  };
  const packer = compression === 'gzip' ? createGzip() : createZstdCompress();
  await withFile(path, 'create', async (file) => {
    await pipeline(Readable.from(tar(), { objectMode: false }), packer, async (pieces) => {
      for await (const piece of pieces as AsyncIterable<Uint8Array>) {
        packed.update(piece);
        await file.write(doneBytes, piece);
        doneBytes += piece.length;
      }
    });
    await file.sync();
  });
  const digest = digestOfSha256(packed.digest());
  const diffId = digestOfSha256(whole.digest());
  return { layer: { digest, sizeBytes: doneBytes, diffId }, entryCount };
}
