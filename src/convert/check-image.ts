import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { digestHex, type Digest } from '../image/digest.ts';
import { openLayer, type Layer } from '../image/layer.ts';
import { LayeredImage } from '../image/layered-image.ts';
import { blobsOf, blockLayers, parseManifest, type Manifest } from '../image/manifest.ts';
import { isIndex, platformIn, selectPlatform, type Platform } from '../registry/platform.ts';
import type { Codec, Hash } from '../runtime/codec.ts';
import type { Decompressor } from '../runtime/decompressor.ts';
import { CodedError } from '../util/errors.ts';
import { compareTrees, type Comparison } from './check/compare-trees.ts';
import { Ext4Reader } from './check/ext4-reader.ts';
import { OriginalTree } from './check/original-tree.ts';
import { ConvertError } from './errors.ts';
import { failing, LocalFile } from './files.ts';
import { KernelTree } from './kernel-tree.ts';
import type { ProgressOptions } from './layer-blob.ts';
import { layerItems } from './layer-items.ts';
import { readParts, type StoredManifest } from './places/manifest-parts.ts';
import { isMismatch, type ImagePlace } from './places/place.ts';
import { collect, readSourceImage } from './source-image.ts';
import { verifyLayers, type LayerCheck } from './verify-image.ts';

/** Marks a manifest of an index that only describes another one there. */
const DESCRIPTION_ANNOTATION = 'vnd.docker.reference.type';

/** Bytes of a config that is read for its platform. */
const CONFIG_BYTES_MAX = 4 * 1024 * 1024;

/** What a check needs from outside. */
export interface CheckComponents {
  readonly codec: Codec;
  readonly hash: Hash;
  readonly decompressor: Decompressor;
}

/** The layers of a block image, as files. */
export interface ImageFiles {
  readonly reference: string;
  readonly digest: Digest;
  readonly manifest: Manifest;
  readonly pathOf: (digest: Digest) => string;
}

/** Why something was not done, for people. */
export interface NotDone {
  readonly reason: string;
}

/**
 * Mounts an image for the time of `use`, which gets the folder of its files; or says why it cannot.
 * Another process serves the mount.
 */
export type MountImage = <T>(
  image: ImageFiles,
  use: (root: string) => Promise<T>,
) => Promise<T | NotDone>;

/** What is checked. */
export interface CheckPlaces {
  readonly image: ImagePlace;
  /** Undefined: the subject of the image's manifest, if it has one. */
  readonly original: ImagePlace | undefined;
  /** An empty folder with room for the compressed block image. */
  readonly workFolder: string;
  /** Undefined: the image is not mounted. */
  readonly mount?: MountImage | undefined;
}

/** What was found of the image of one platform. */
export interface PlatformCheck {
  readonly platform: Platform;
  readonly digest: Digest;
  readonly layers: readonly LayerCheck[];
  /** The original's manifest; undefined when there is none to compare with. */
  readonly originalDigest: Digest | undefined;
  /** Undefined without an original, or when a layer is bad. */
  readonly comparison: Comparison | undefined;
  /** The same of what the kernel shows of the mounted image; undefined where that was not asked. */
  readonly mounted: Comparison | NotDone | undefined;
}

/**
 * Checks a block image: its manifests and blobs against their digests, its layers whole, with the
 * block digests that it ships, and then each of its files against the original. Every platform of
 * an index is checked. Throws ConvertError, ImageError when the file system is damaged,
 * RegistryError, ManifestError, or the signal's reason.
 */
export async function checkImage(
  components: CheckComponents,
  places: CheckPlaces,
  options: ProgressOptions & { readonly signal: AbortSignal },
): Promise<readonly PlatformCheck[]> {
  const { image } = places;
  const { signal } = options;
  const root = await image.resolve(signal);
  const original = await places.original?.resolve(signal);
  const checks: PlatformCheck[] = [];
  for await (const stored of manifestsIn(image, root, signal)) {
    const manifest = parseManifest(stored.bytes);
    const platform = await platformOf(image, manifest, signal);
    const layers = await checkLayers(components, { ...places, manifest }, options);
    const found = await originalOf(places, { stored, original, platform }, signal);
    const isSound = layers.every(({ result }) => !(result instanceof CodedError));
    const { digest } = stored;
    const compared =
      found === undefined || !isSound
        ? { comparison: undefined, mounted: undefined }
        : await compare(components, { ...places, ...found, digest, manifest }, options);
    await dropBlobs(places.workFolder, manifest);
    checks.push({ platform, digest, layers, originalDigest: found?.original.digest, ...compared });
  }
  return checks;
}

/** The manifest, or those of an index that are images, one at a time. */
async function* manifestsIn(
  place: ImagePlace,
  root: StoredManifest,
  signal: AbortSignal,
): AsyncGenerator<StoredManifest> {
  if (!isIndex(root)) return yield root;
  for (const { digest, annotations } of readParts(root).manifests) {
    if (annotations?.[DESCRIPTION_ANNOTATION] !== undefined) continue;
    yield await place.manifest(digest, signal);
  }
}

async function platformOf(
  place: ImagePlace,
  { config }: Manifest,
  signal: AbortSignal,
): Promise<Platform> {
  const { digest, size } = config;
  const bad = (why: string, cause?: unknown): ConvertError => {
    const what = `${place.name} cannot be checked: its config ${digest} ${why}`;
    return new ConvertError(what, { code: 'manifest', digest }, { cause });
  };
  if (size > CONFIG_BYTES_MAX) throw bad(`is larger than ${CONFIG_BYTES_MAX} bytes`);
  const bytes = await collect(place.openBlob({ digest, sizeBytes: size }, signal));
  try {
    return platformIn(JSON.parse(new TextDecoder().decode(bytes)));
  } catch (cause) {
    throw bad('is no JSON', cause);
  }
}

interface Original {
  readonly place: ImagePlace;
  readonly original: StoredManifest;
}

/** What the image is compared with: the original that is named, or the subject of its manifest. */
async function originalOf(
  places: CheckPlaces,
  image: {
    readonly stored: StoredManifest;
    readonly original: StoredManifest | undefined;
    readonly platform: Platform;
  },
  signal: AbortSignal,
): Promise<Original | undefined> {
  const { stored, original, platform } = image;
  const place = places.original;
  if (place === undefined || original === undefined) {
    const { subject } = readParts(stored);
    if (subject === undefined) return undefined;
    return { place: places.image, original: await subjectOf(places.image, subject, signal) };
  }
  if (!isIndex(original)) return { place, original };
  const digest = selectPlatform(original.bytes, platform, place.name);
  return { place, original: await place.manifest(digest, signal) };
}

async function subjectOf(
  place: ImagePlace,
  digest: Digest,
  signal: AbortSignal,
): Promise<StoredManifest> {
  try {
    return await place.manifest(digest, signal);
  } catch (cause) {
    const isAbsent = cause instanceof CodedError && /^(not-found|layout)$/.test(String(cause.code));
    if (!isAbsent) throw cause;
    const what = `${place.name} was made of ${digest}, which is not there: name the original`;
    throw new ConvertError(what, { code: 'manifest', digest }, { cause });
  }
}

/** Fetches the blobs of an image into the folder, and checks them. */
async function checkLayers(
  components: CheckComponents,
  where: { readonly image: ImagePlace; readonly workFolder: string; readonly manifest: Manifest },
  options: ProgressOptions & { readonly signal: AbortSignal },
): Promise<readonly LayerCheck[]> {
  const { image, workFolder, manifest } = where;
  const { signal, onProgress } = options;
  const { config } = manifest;
  for (const blob of blobsOf(manifest)) {
    if (blob.digest === config.digest) continue;
    const path = pathIn(workFolder, blob.digest);
    const file = await failing(path, 'write', () => open(path, 'wx'));
    try {
      let done = 0;
      for await (const piece of image.openBlob(blob, signal)) {
        await failing(path, 'write', () => file.writeFile(piece));
        done += piece.length;
        onProgress?.('reading', done, blob.sizeBytes);
      }
    } catch (error) {
      // What is wrong with it is found again when the layer is verified.
      if (!isMismatch(error)) throw error;
    } finally {
      await file.close();
    }
  }
  const pathOf = (digest: Digest): string => pathIn(workFolder, digest);
  return verifyLayers(components, { manifest, pathOf }, options);
}

async function compare(
  components: CheckComponents,
  sides: Original &
    Pick<CheckPlaces, 'image' | 'workFolder' | 'mount'> & {
      readonly digest: Digest;
      readonly manifest: Manifest;
    },
  options: ProgressOptions & { readonly signal: AbortSignal },
): Promise<Pick<PlatformCheck, 'comparison' | 'mounted'>> {
  const { signal, onProgress } = options;
  const { place, original, image, digest, workFolder, manifest, mount } = sides;
  const { hash } = components;
  const tree = new OriginalTree({ hash });
  const source = await readSourceImage(hash, place, {
    stored: original,
    purpose: 'compared with',
    signal,
  });
  for (const [i, { blob, diffId }] of source.layers.entries()) {
    const content = place.openBlob(blob, signal);
    const layer = { digest: blob.digest, diffId, signal };
    await tree.addLayer(layerItems(components, content, layer));
    onProgress?.('reading the original', i + 1, source.layers.length);
  }
  const files: LocalFile[] = [];
  try {
    const layers: Layer[] = [];
    for (const { digest } of blockLayers(manifest)) {
      const file = await LocalFile.open(pathIn(workFolder, digest), 'read');
      files.push(file);
      layers.push(await openLayer(file, components.codec));
    }
    const reader = await Ext4Reader.open(new LayeredImage(layers));
    const comparison = await compareTrees(
      { hash },
      { reader, tree },
      { signal, onProgress: (done, total) => onProgress?.('comparing', done, total) },
    );
    const pathOf = (blob: Digest): string => pathIn(workFolder, blob);
    const mounted = await mount?.({ reference: image.name, digest, manifest, pathOf }, (root) =>
      compareTrees(
        { hash },
        { reader: new KernelTree(root), tree },
        { signal, onProgress: (done, total) => onProgress?.('comparing mounted', done, total) },
      ),
    );
    return { comparison, mounted };
  } finally {
    await Promise.all(files.map((file) => file.close()));
  }
}

/** Platforms of one image are checked one after the other, and each needs room for itself alone. */
async function dropBlobs(workFolder: string, manifest: Manifest): Promise<void> {
  for (const { digest } of manifest.layers) await rm(pathIn(workFolder, digest), { force: true });
}

function pathIn(folder: string, digest: Digest): string {
  return join(folder, digestHex(digest));
}
