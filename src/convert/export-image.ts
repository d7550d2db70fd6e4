import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip, createZstdCompress } from 'node:zlib';
import { digestOfSha256, type Digest } from '../image/digest.ts';
import { openLayer } from '../image/layer.ts';
import { LayeredImage } from '../image/layered-image.ts';
import { blockLayers } from '../image/manifest.ts';
import type { Codec, Hash } from '../runtime/codec.ts';
import type { Compression } from '../runtime/decompressor.ts';
import { findBlockImage, readConfig } from './block-image.ts';
import { encodePlainImage } from './block-manifest.ts';
import { CheckedLayers } from './checked-layers.ts';
import { Ext4Reader } from './check/ext4-reader.ts';
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
}

/** An ordinary image made of a block image. */
export interface ExportedImage {
  readonly digest: Digest;
  readonly sourceDigest: Digest;
  readonly layer: LayerBlob;
  /** Digest of the uncompressed layer. */
  readonly diffId: Digest;
  readonly entryCount: number;
}

/**
 * Makes an ordinary image of a block image: all files in one layer. The same block image, options
 * and version of Node give the same digests. Throws ConvertError, ImageError, RegistryError, or the
 * signal's reason.
 */
export async function exportImage(
  components: { readonly codec: Codec; readonly hash: Hash },
  places: {
    readonly source: ImagePlace;
    readonly target: ImageTarget;
    /** An empty folder with room for the compressed layer. */
    readonly workFolder: string;
  },
  options: ExportOptions,
): Promise<ExportedImage> {
  const { source, target, workFolder } = places;
  const { signal } = options;
  try {
    const image = await findBlockImage(source, options);
    const config = await readConfig(image, signal);
    const checked = await CheckedLayers.open(components, image, { ...options, folder: workFolder });
    const path = join(workFolder, 'layer');
    let made: Awaited<ReturnType<typeof writeLayer>>;
    try {
      const blobs = blockLayers(image.manifest).map((blob) => checked.source(blob));
      const layers = await Promise.all(blobs.map((blob) => openLayer(blob, components.codec)));
      const reader = await Ext4Reader.open(new LayeredImage(layers));
      made = await writeLayer(components, { reader, path }, options);
    } finally {
      await checked.close();
    }
    const { layer, diffId, entryCount } = made;
    const { compression } = options;
    const encoded = encodePlainImage(components.hash, image, {
      config,
      layer,
      diffId,
      compression,
    });
    await target.putBlob(layer, () => piecesOfFile(path), { signal });
    await putBytes(target, encoded.config.digest, encoded.config.bytes, signal);
    await target.putManifest(encoded.manifest, target.tag, signal);
    await target.finish(signal);
    const sourceDigest = image.stored.digest;
    return { digest: encoded.manifest.digest, sourceDigest, layer, diffId, entryCount };
  } finally {
    await target.discard();
  }
}

async function writeLayer(
  { hash }: { readonly hash: Hash },
  { reader, path }: { readonly reader: Ext4Reader; readonly path: string },
  { signal, onProgress, compression }: ExportOptions,
): Promise<{ layer: LayerBlob; diffId: Digest; entryCount: number }> {
  const [whole, packed] = [hash.sha256Stream(), hash.sha256Stream()];
  let entryCount = 0;
  let doneBytes = 0;
  const { inodeCount } = reader.layout;
  const onEntry = (): void => onProgress?.('exporting', ++entryCount, inodeCount);
  const tar = async function* (): AsyncGenerator<Uint8Array> {
    for await (const piece of tarOfExt4(reader, { signal, onEntry })) {
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
  const layer = { digest: digestOfSha256(packed.digest()), sizeBytes: doneBytes };
  return { layer, diffId: digestOfSha256(whole.digest()), entryCount };
}
