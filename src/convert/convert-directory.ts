import { mkdtemp, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Codec, Hash } from '../runtime/codec.ts';
import { digestOf, type Digest } from '../image/digest.ts';
import { MANIFEST_MEDIA_TYPES, OVERLAYBD_ANNOTATION } from '../image/manifest.ts';
import { makeAccelerationLayer } from './acceleration-layer.ts';
import { ConvertError } from './errors.ts';
import { makeExt4 } from './ext4.ts';
import { failing, withFile } from './files.ts';
import {
  writeLayerBlob,
  type LayerBlob,
  type ProgressOptions,
  type WrittenLayer,
} from './layer-blob.ts';
import { blobPath, prepareLayout, putBlob, tagManifest, type LayoutTarget } from './oci-layout.ts';

const CONFIG_MEDIA_TYPE = 'application/vnd.oci.image.config.v1+json';
const LAYER_MEDIA_TYPE = 'application/vnd.oci.image.layer.v1.tar';

/** Creation time of every image: the same content must give the same digest. */
const CREATED = '1970-01-01T00:00:00Z';

/** Go's names of processors, which images use, where Node's names differ. */
const ARCHITECTURES: Readonly<Record<string, string>> = {
  x64: 'amd64',
  ia32: '386',
  ppc64: 'ppc64le',
};

/** A converted image. */
export interface ConvertedImage {
  readonly manifestDigest: Digest;
  readonly layer: LayerBlob;
  /** Bytes of the block device. */
  readonly virtualSizeBytes: number;
  /** The topmost layer, with the digests of the other layer's blocks. */
  readonly accelerationLayer: LayerBlob;
}

/**
 * Converts a directory into a block image in an OCI image layout: one layer with an ext4 file
 * system, and an acceleration layer. The same directory gives the same digests as long as the file
 * system lists it in the same order. Run by root, it keeps the owners of files.
 *
 * Intermediate files lie in a temporary folder in the layout, which is always removed at the end.
 * Throws ConvertError, or the signal's reason.
 */
export async function convertDirectory(
  components: { codec: Codec; hash: Hash },
  directory: string,
  target: LayoutTarget,
  options: ProgressOptions = {},
): Promise<ConvertedImage> {
  const source = await failing(directory, 'read', () => stat(directory));
  if (!source.isDirectory()) {
    throw new ConvertError(`${directory} is not a directory`, { code: 'file', path: directory });
  }
  await prepareLayout(target.directory);
  const work = await failing(target.directory, 'write to', () =>
    mkdtemp(join(target.directory, '.convert-')),
  );
  try {
    const diskPath = join(work, 'disk');
    const layerPath = join(work, 'layer');
    await makeExt4(directory, diskPath, options.signal);
    const made = await withFile(diskPath, 'read', (disk) =>
      withFile(layerPath, 'create', async (blob) => {
        const written = await writeLayerBlob(components, disk, blob, options);
        return { ...written, virtualSizeBytes: disk.sizeBytes };
      }),
    );
    const path = blobPath(target.directory, made.layer.digest);
    await failing(path, 'write', () => rename(layerPath, path));
    const { layer, virtualSizeBytes } = made;
    return { ...(await writeManifest(components, target, made)), layer, virtualSizeBytes };
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

async function writeManifest(
  components: { codec: Codec; hash: Hash },
  target: LayoutTarget,
  made: WrittenLayer & { virtualSizeBytes: number },
): Promise<Pick<ConvertedImage, 'manifestDigest' | 'accelerationLayer'>> {
  const { hash } = components;
  const { digest, sizeBytes } = made.layer;
  const top = await makeAccelerationLayer(components, target.directory, { layers: [made] });
  const config = await putJson(hash, target, {
    created: CREATED,
    architecture: ARCHITECTURES[process.arch] ?? process.arch,
    os: 'linux',
    config: { Env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'] },
    rootfs: { type: 'layers', diff_ids: [digest, top.descriptor.digest] },
    history: [
      { created: CREATED, created_by: 'xylem convert' },
      { created: CREATED, created_by: 'xylem convert', comment: 'block digests' },
    ],
  });
  const annotations = {
    [`${OVERLAYBD_ANNOTATION}blob-digest`]: digest,
    [`${OVERLAYBD_ANNOTATION}blob-size`]: String(sizeBytes),
    [`${OVERLAYBD_ANNOTATION}version`]: '0.1.0',
    [`${OVERLAYBD_ANNOTATION}blob-fs-type`]: 'ext4',
    [`${OVERLAYBD_ANNOTATION}vsize`]: String(made.virtualSizeBytes),
    ...top.layerAnnotations[0],
  };
  const manifest = await putJson(hash, target, {
    schemaVersion: 2,
    mediaType: MANIFEST_MEDIA_TYPES[0],
    config: { mediaType: CONFIG_MEDIA_TYPE, ...config },
    layers: [{ mediaType: LAYER_MEDIA_TYPE, digest, size: sizeBytes, annotations }, top.descriptor],
  });
  await tagManifest(target, manifest);
  const { descriptor } = top;
  return {
    manifestDigest: manifest.digest,
    accelerationLayer: { digest: descriptor.digest, sizeBytes: descriptor.size },
  };
}

async function putJson(
  hash: Hash,
  target: LayoutTarget,
  value: unknown,
): Promise<{ digest: Digest; size: number }> {
  const bytes = new TextEncoder().encode(JSON.stringify(value));
  const digest = digestOf(hash, bytes);
  await putBlob(target.directory, digest, bytes);
  return { digest, size: bytes.length };
}
