import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { digestOfSha256, type Digest } from '../image/digest.ts';
import { hostPlatform } from '../registry/platform.ts';
import type { Codec, Hash } from '../runtime/codec.ts';
import { makeAccelerationLayer } from './acceleration-layer.ts';
import { BlockImageBuilder, type BlockImageOptions } from './block-image-builder.ts';
import { encodeBlockImage } from './block-manifest.ts';
import { directoryItems } from './directory-items.ts';
import { ConvertError } from './errors.ts';
import { failing, piecesOfFile } from './files.ts';
import type { LayerBlob, ProgressOptions } from './layer-blob.ts';
import { putBytes } from './layer-cache.ts';
import type { ImageTarget } from './places/place.ts';

/** Creation time of every image: the same content must give the same digest. */
const CREATED = '1970-01-01T00:00:00Z';

/** A converted directory. */
export interface ConvertedDirectory {
  readonly digest: Digest;
  readonly layer: LayerBlob;
  readonly deviceBytes: number;
  /** The topmost layer, with the digests of the other layer's blocks. */
  readonly accelerationLayer: LayerBlob;
}

/**
 * Converts a directory into a block image: one layer with an ext4 file system, and an acceleration
 * layer. The same content gives the same digests. `workFolder` is an empty folder with room for the
 * content. Throws ConvertError, RegistryError, or the signal's reason.
 */
export async function convertDirectory(
  components: { readonly codec: Codec; readonly hash: Hash },
  directory: string,
  places: { readonly target: ImageTarget; readonly workFolder: string },
  options: BlockImageOptions & ProgressOptions & { readonly signal: AbortSignal },
): Promise<ConvertedDirectory> {
  const { hash } = components;
  const { target, workFolder } = places;
  const { signal, deviceBytes } = options;
  const source = await failing(directory, 'read', () => stat(directory));
  if (!source.isDirectory()) {
    throw new ConvertError(`${directory} is not a directory`, { code: 'file', path: directory });
  }
  try {
    const builder = await BlockImageBuilder.create(components, workFolder, options);
    const blobPath = join(workFolder, 'layer');
    const hasher = hash.sha256Stream();
    const identify = (): { chainId: Digest; parentChainId: undefined } => ({
      chainId: digestOfSha256(hasher.digest()),
      parentChainId: undefined,
    });
    const made = await builder
      .add(directoryItems(directory, { hasher, signal }), identify, { ...options, blobPath })
      .finally(() => builder.close());
    const acceleration = makeAccelerationLayer(components, { layers: [made] });
    const { manifest, config } = encodeBlockImage(hash, {
      config: {
        created: CREATED,
        ...hostPlatform(),
        config: { Env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'] },
      },
      layers: [{ layer: made.layer, chainId: undefined }],
      acceleration,
      deviceBytes,
      annotations: {},
    });
    await target.putBlob(made.layer, () => piecesOfFile(blobPath), { signal });
    await putBytes(target, acceleration.descriptor.digest, acceleration.bytes, signal);
    await putBytes(target, config.digest, config.bytes, signal);
    await target.putManifest(manifest, target.tag, signal);
    await target.finish(signal);
    const { descriptor } = acceleration;
    return {
      digest: manifest.digest,
      layer: made.layer,
      deviceBytes,
      accelerationLayer: { digest: descriptor.digest, sizeBytes: descriptor.size },
    };
  } finally {
    await target.discard();
  }
}
