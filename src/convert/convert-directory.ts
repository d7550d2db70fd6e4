import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { digestOf, digestOfSha256, type Digest } from '../image/digest.ts';
import { hostPlatform } from '../registry/platform.ts';
import type { Codec, Hash } from '../runtime/codec.ts';
import { makeAccelerationLayer } from './acceleration-layer.ts';
import {
  BLOCK_IMAGE_DEFAULTS,
  BlockImageBuilder,
  type BlockImageOptions,
  type LayerIdentity,
} from './block-image-builder.ts';
import { encodeBlockImage } from './block-manifest.ts';
import { directoryItems } from './directory-items.ts';
import { ConvertError } from './errors.ts';
import { failing, piecesOfFile } from './files.ts';
import type { LayerBlob, ProgressOptions, WrittenLayer } from './layer-blob.ts';
import { putBytes } from './layer-cache.ts';
import type { ImageTarget } from './places/place.ts';
import { withWorkFolder } from './work-folder.ts';

/** Creation time of every image: the same content must give the same digest. */
const CREATED = '1970-01-01T00:00:00Z';

const BLOB_NAME = 'layer';

/** A converted directory. */
export interface ConvertedDirectory {
  readonly digest: Digest;
  readonly layer: LayerBlob;
  readonly deviceBytes: number;
  /** The topmost layer, with the digests of the other layer's blocks. */
  readonly accelerationLayer: LayerBlob;
}

/** How a directory is converted. */
export interface ConvertDirectoryOptions extends Partial<BlockImageOptions>, ProgressOptions {
  /** For temporary files, which need room for the content; by default the system's. */
  readonly workDirectory?: string | undefined;
  /** Is told the folders that killed conversions had left there. */
  readonly onCleared?: (folders: readonly string[]) => void;
}

/**
 * Converts a directory into a block image: one layer with an ext4 file system, and an acceleration
 * layer. The same content gives the same digests. Throws ConvertError, RegistryError, or the
 * signal's reason.
 */
export async function convertDirectory(
  components: { readonly codec: Codec; readonly hash: Hash },
  directory: string,
  target: ImageTarget,
  options: ConvertDirectoryOptions = {},
): Promise<ConvertedDirectory> {
  const source = await failing(directory, 'read', () => stat(directory));
  if (!source.isDirectory()) {
    throw new ConvertError(`${directory} is not a directory`, { code: 'file', path: directory });
  }
  try {
    return await withWorkFolder(
      options.workDirectory,
      (workFolder) => convertIn(workFolder, { ...components, directory, target }, options),
      options.onCleared,
    );
  } finally {
    await target.discard();
  }
}

async function convertIn(
  workFolder: string,
  what: { readonly codec: Codec; readonly hash: Hash; directory: string; target: ImageTarget },
  options: ConvertDirectoryOptions,
): Promise<ConvertedDirectory> {
  const { hash, directory, target } = what;
  const { signal = new AbortController().signal } = options;
  // A target that cannot be reached is told now, not after the work.
  await target.hasBlob({ digest: digestOf(hash, new Uint8Array(0)), sizeBytes: 0 }, signal);
  const made = await makeLayer(what, { directory, workFolder }, options);
  const acceleration = makeAccelerationLayer(what, { layers: [made] });
  const { manifest, config } = encodeBlockImage(hash, {
    config: {
      created: CREATED,
      ...hostPlatform(),
      config: { Env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'] },
    },
    layers: [{ layer: made.layer, chainId: undefined }],
    acceleration,
    deviceBytes: made.deviceBytes,
    annotations: {},
  });
  await target.putBlob(made.layer, () => piecesOfFile(join(workFolder, BLOB_NAME)), { signal });
  await putBytes(target, acceleration.descriptor.digest, acceleration.bytes, signal);
  await putBytes(target, config.digest, config.bytes, signal);
  await target.putManifest(manifest, target.tag, signal);
  await target.finish(signal);
  const { descriptor } = acceleration;
  return {
    digest: manifest.digest,
    layer: made.layer,
    deviceBytes: made.deviceBytes,
    accelerationLayer: { digest: descriptor.digest, sizeBytes: descriptor.size },
  };
}

async function makeLayer(
  components: { readonly codec: Codec; readonly hash: Hash },
  places: { readonly directory: string; readonly workFolder: string },
  options: ConvertDirectoryOptions,
): Promise<WrittenLayer & { readonly deviceBytes: number }> {
  const { directory, workFolder } = places;
  const made = { ...BLOCK_IMAGE_DEFAULTS, ...options };
  const builder = await BlockImageBuilder.create(components, workFolder, made);
  const hasher = components.hash.sha256Stream();
  const items = directoryItems(directory, { hasher, signal: options.signal });
  const identify = (): LayerIdentity => ({
    chainId: digestOfSha256(hasher.digest()),
    parentChainId: undefined,
  });
  const blobPath = join(workFolder, BLOB_NAME);
  const layer = await builder
    .add(items, identify, { ...options, blobPath })
    .finally(() => builder.close());
  return { ...layer, deviceBytes: made.deviceBytes };
}
