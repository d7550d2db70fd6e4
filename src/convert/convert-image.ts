import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { digestOf, parseDigest, type Digest } from '../image/digest.ts';
import { ImageError } from '../image/errors.ts';
import {
  BLOCK_IMAGE_ARTIFACT_TYPE,
  INDEX_MEDIA_TYPES,
  type Descriptor,
} from '../image/manifest.ts';
import { isIndex, platformIn, type Platform } from '../registry/platform.ts';
import type { Codec, Hash } from '../runtime/codec.ts';
import type { Decompressor } from '../runtime/decompressor.ts';
import { defined } from '../util/assert.ts';
import { makeAccelerationLayer } from './acceleration-layer.ts';
import { BlockImageBuilder, type BlockImageOptions } from './block-image-builder.ts';
import { encodeBlockImage } from './block-manifest.ts';
import { choosePlatform } from './choose-platform.ts';
import { ConvertError } from './errors.ts';
import { piecesOfFile, withFile } from './files.ts';
import type { ProgressOptions, WrittenLayer } from './layer-blob.ts';
import { putBytes, type LayerCache } from './layer-cache.ts';
import { layerItems } from './layer-items.ts';
import { readParts, type StoredManifest } from './places/manifest-parts.ts';
import type { ImagePlace, ImageTarget } from './places/place.ts';
import { readSourceImage, type SourceImage, type SourceLayer } from './source-image.ts';

/** What a conversion needs from outside. */
export interface ConvertComponents {
  readonly codec: Codec;
  readonly hash: Hash;
  readonly decompressor: Decompressor;
}

/** From where to where an image is converted. */
export interface ConvertPlaces {
  readonly source: ImagePlace;
  readonly target: ImageTarget;
  /** Layers of earlier conversions; undefined: all are made. */
  readonly cache: LayerCache | undefined;
  /** An empty folder with room for the uncompressed image. */
  readonly workFolder: string;
}

/** How an image is converted. */
export interface ConvertOptions extends BlockImageOptions, ProgressOptions {
  readonly signal: AbortSignal;
  /** For this platform alone; undefined: of an index, all that block images can be made of. */
  readonly platform: Platform | undefined;
  /**
   * Also list each block image among the referrers of its original, in the target; the index that
   * is made of an index, too.
   */
  readonly asReferrer: boolean;
  /** Is told, for people, of layers of earlier conversions that cannot be used. */
  readonly onWarning?: ((what: string) => void) | undefined;
}

/** A block layer, and the layer that it was made of. */
interface ConvertedLayer {
  readonly digest: Digest;
  readonly sizeBytes: number;
  readonly sourceDigest: Digest;
  readonly sourceBytes: number;
  /** Whether an earlier conversion had made it. */
  readonly isReused: boolean;
}

/** A block image of one platform. */
interface ConvertedPlatform {
  readonly platform: Platform;
  readonly sourceDigest: Digest;
  readonly manifest: Pick<Descriptor, 'mediaType' | 'digest' | 'size'>;
  /** Of a referrer: whether it was not there before. */
  readonly isNew?: boolean;
  /** Bottom first. */
  readonly layers: readonly ConvertedLayer[];
  readonly accelerationLayer: { readonly digest: Digest; readonly sizeBytes: number };
}

/** A converted image. */
export interface ConversionResult {
  /** Of the manifest, or of the index of a multi-platform image. */
  readonly digest: Digest;
  readonly sourceDigest: Digest;
  readonly deviceBytes: number;
  readonly platforms: readonly ConvertedPlatform[];
  /** Of an index that is a referrer: whether it was not there before. */
  readonly isNew?: boolean;
  /** Entries of the index that were left out, and why. */
  readonly leftOut: readonly { readonly digest: Digest; readonly reason: string }[];
}

/**
 * Converts an ordinary image into a block image: each layer becomes one block layer on those below,
 * and an acceleration layer with the block digests comes on top. An index becomes an index. The
 * same image and options give the same digests. Nothing is tagged before all is there.
 *
 * Throws ConvertError, RegistryError, ManifestError, or the signal's reason.
 */
export async function convertImage(
  components: ConvertComponents,
  places: ConvertPlaces,
  options: ConvertOptions,
): Promise<ConversionResult> {
  const { source, target } = places;
  const { signal, platform, deviceBytes } = options;
  try {
    const root = await source.resolve(signal);
    // A target that cannot be reached is told now, not after the work.
    await target.hasBlob({ digest: root.digest, sizeBytes: root.bytes.length }, signal);
    const conversion = new Conversion(components, places, options);
    if (!isIndex(root) || platform !== undefined) {
      const stored =
        platform === undefined ? root : await choosePlatform(source, root, { platform, signal });
      const one = await conversion.convert(stored, target.tag);
      await target.finish(signal);
      const { digest } = one.manifest;
      return { digest, sourceDigest: stored.digest, deviceBytes, platforms: [one], leftOut: [] };
    }
    const entries: { readonly entry: IndexEntry; readonly made: ConvertedPlatform }[] = [];
    const leftOut: { digest: Digest; reason: string }[] = [];
    for (const entry of indexEntries(root)) {
      const reason = reasonToLeaveOut(entry);
      if (reason === undefined) {
        const stored = await source.manifest(entry.digest, signal);
        entries.push({ entry, made: await conversion.convert(stored, undefined) });
      } else leftOut.push({ digest: entry.digest, reason });
    }
    if (entries.length === 0) {
      throw new ConvertError(`${source.name} has no image for Linux`, {
        code: 'manifest',
        digest: root.digest,
      });
    }
    const index = encodeIndex(components.hash, entries, options.asReferrer ? root : undefined);
    const isNew = options.asReferrer && (await target.addReferrer(index, signal));
    await target.putManifest(index, target.tag, signal);
    await target.finish(signal);
    return {
      ...{ digest: index.digest, sourceDigest: root.digest, deviceBytes },
      platforms: entries.map(({ made }) => made),
      ...(options.asReferrer && { isNew }),
      leftOut,
    };
  } finally {
    await target.discard();
  }
}

/** Converts the images of one run. */
class Conversion {
  readonly #components: ConvertComponents;
  readonly #places: ConvertPlaces;
  readonly #options: ConvertOptions;

  constructor(components: ConvertComponents, places: ConvertPlaces, options: ConvertOptions) {
    this.#components = components;
    this.#places = places;
    this.#options = options;
  }

  async convert(stored: StoredManifest, tag: string | undefined): Promise<ConvertedPlatform> {
    const { hash } = this.#components;
    const { source, target } = this.#places;
    const { signal, deviceBytes, asReferrer } = this.#options;
    const image = await readSourceImage(hash, source, { stored, purpose: 'converted', signal });
    const { written, reusedCount } = await this.#makeLayers(image);
    const acceleration = makeAccelerationLayer(this.#components, { layers: written });
    const { manifest, config } = encodeBlockImage(hash, {
      config: image.config,
      layers: written.map(({ layer }, i) => ({ layer, chainId: image.layers[i]?.chainId })),
      acceleration,
      deviceBytes,
      annotations: image.manifest.annotations,
      subject: asReferrer ? subjectOf(stored) : undefined,
    });
    await putBytes(target, acceleration.descriptor.digest, acceleration.bytes, signal);
    await putBytes(target, config.digest, config.bytes, signal);
    const isNew = asReferrer && (await target.addReferrer(manifest, signal));
    await target.putManifest(manifest, tag, signal);
    return {
      platform: image.platform,
      sourceDigest: stored.digest,
      manifest: {
        mediaType: manifest.mediaType,
        digest: manifest.digest,
        size: manifest.bytes.length,
      },
      ...(asReferrer && { isNew }),
      layers: written.map(({ layer }, i) => {
        const { blob } = defined(image.layers[i], 'a block layer for each layer');
        return {
          ...layer,
          sourceDigest: blob.digest,
          sourceBytes: blob.sizeBytes,
          isReused: i < reusedCount,
        };
      }),
      accelerationLayer: {
        digest: acceleration.descriptor.digest,
        sizeBytes: acceleration.bytes.length,
      },
    };
  }

  /** Finds the lowest layers in the cache, and makes the others. */
  async #makeLayers(
    image: SourceImage,
  ): Promise<{ written: readonly WrittenLayer[]; reusedCount: number }> {
    const { signal } = this.#options;
    const found: WrittenLayer[] = [];
    for (const { chainId } of image.layers) {
      const layer = await this.#places.cache?.find(chainId, signal);
      if (layer === undefined) break;
      found.push(layer);
    }
    if (found.length === image.layers.length) return { written: found, reusedCount: found.length };
    for (;;) {
      const { workFolder } = this.#places;
      const builder = await BlockImageBuilder.create(this.#components, workFolder, this.#options);
      try {
        const count = await this.#restoreAll(builder, image, found);
        if (count === found.length) {
          const made = await this.#makeRest(builder, image, count);
          return { written: [...found, ...made], reusedCount: count };
        }
        // What it held is in the file system by now, as far as it went.
        found.length = count;
      } finally {
        await builder.close();
      }
    }
  }

  /** Restores the layers that were found, up to the first that is bad; how many are good. */
  async #restoreAll(
    builder: BlockImageBuilder,
    image: SourceImage,
    found: readonly WrittenLayer[],
  ): Promise<number> {
    for (const [i, { layer }] of found.entries()) {
      const { chainId } = defined(image.layers[i], 'a layer was found for each');
      const isGood = await this.#restore(builder, { chainId, layer, name: nameOf(i, image) });
      if (!isGood) return i;
    }
    return found.length;
  }

  /** Makes the layers above the lowest ones. */
  async #makeRest(
    builder: BlockImageBuilder,
    image: SourceImage,
    count: number,
  ): Promise<readonly WrittenLayer[]> {
    const written: WrittenLayer[] = [];
    // One blob is put while the next is made.
    let putting = Promise.resolve();
    try {
      for (const [i, layer] of image.layers.entries()) {
        if (i < count) continue;
        const path = join(this.#places.workFolder, `layer-${i}`);
        const made = await this.#make(builder, layer, { path, name: nameOf(i, image) });
        await putting;
        putting = this.#put(made, { path, chainId: layer.chainId });
        putting.catch(() => {});
        written.push(made);
      }
      await putting;
      return written;
    } finally {
      await Promise.allSettled([putting]);
    }
  }

  async #make(
    builder: BlockImageBuilder,
    layer: SourceLayer,
    { path, name }: { readonly path: string; readonly name: string },
  ): Promise<WrittenLayer> {
    const { signal, onProgress } = this.#options;
    const { diffId, blob } = layer;
    const pieces = counted(this.#places.source.openBlob(blob, signal), (done) =>
      onProgress?.(`${name}: reading`, done, blob.sizeBytes),
    );
    const described = { digest: blob.digest, diffId, signal };
    return builder.add(layerItems(this.#components, pieces, described), () => layer, {
      blobPath: path,
      signal,
      onProgress: (step, done, total) => onProgress?.(`${name}: ${step}`, done, total),
    });
  }

  async #put(
    made: WrittenLayer,
    { path, chainId }: { readonly path: string; readonly chainId: Digest },
  ): Promise<void> {
    const { signal } = this.#options;
    await this.#places.target.putBlob(made.layer, () => piecesOfFile(path), { signal });
    await rm(path);
    await this.#places.cache?.keep(chainId, made, signal);
  }

  /** Whether it could be used. */
  async #restore(
    builder: BlockImageBuilder,
    found: {
      readonly chainId: Digest;
      readonly layer: WrittenLayer['layer'];
      readonly name: string;
    },
  ): Promise<boolean> {
    const { signal, onProgress, onWarning } = this.#options;
    const { chainId, layer, name } = found;
    const path = join(this.#places.workFolder, 'restored');
    const cache = defined(this.#places.cache, 'the layer was found in it');
    await withFile(path, 'create', async (file) => {
      for await (const piece of cache.read(chainId, layer, signal)) {
        await file.write(file.sizeBytes, piece);
        onProgress?.(`${name}: fetching`, file.sizeBytes, layer.sizeBytes);
      }
    });
    try {
      await builder.restore(path, {
        signal,
        onProgress: (step, done, total) => onProgress?.(`${name}: ${step}`, done, total),
      });
    } catch (cause) {
      const isOther = cause instanceof ConvertError && cause.code === 'too-large';
      if (!isOther && !(cause instanceof ImageError)) throw cause;
      const what = `the layer that is kept in ${this.#places.target.name} for ${chainId} is bad`;
      onWarning?.(`${what}, and is made anew: ${cause.message}`);
      return false;
    } finally {
      await rm(path);
    }
    return true;
  }
}

function nameOf(i: number, image: SourceImage): string {
  return `layer ${i + 1} of ${image.layers.length}`;
}

async function* counted(
  pieces: AsyncIterable<Uint8Array>,
  report: (doneBytes: number) => void,
): AsyncGenerator<Uint8Array> {
  let done = 0;
  for await (const piece of pieces) {
    done += piece.length;
    report(done);
    yield piece;
  }
}

/** An entry of an index, as it is written there. */
interface IndexEntry {
  readonly digest: Digest;
  readonly platform: unknown;
  readonly raw: Readonly<Record<string, unknown>>;
}

/** Throws ConvertError when the index is no sound one, or too long. */
function indexEntries(root: StoredManifest): readonly IndexEntry[] {
  const { bytes } = root;
  readParts(root);
  const { manifests } = Object(JSON.parse(new TextDecoder().decode(bytes))) as {
    manifests?: unknown;
  };
  const list: readonly unknown[] = Array.isArray(manifests) ? manifests : [];
  return list.flatMap((item) => {
    const raw = Object(item) as Record<string, unknown>;
    const digest = parseDigest(String(raw['digest']));
    return digest === undefined ? [] : [{ digest, platform: raw['platform'], raw }];
  });
}

/** Why no block image is made of an entry; undefined when one is. */
function reasonToLeaveOut({ platform, raw }: IndexEntry): string | undefined {
  const annotations = Object(raw['annotations']) as Record<string, unknown>;
  if (annotations['vnd.docker.reference.type'] !== undefined) {
    return 'it describes another image of the index';
  }
  const { os } = platformIn(platform);
  return os === 'linux' ? undefined : `it is made for ${os}, and block images hold ext4`;
}

function encodeIndex(
  hash: Hash,
  entries: readonly { readonly entry: IndexEntry; readonly made: ConvertedPlatform }[],
  subject: StoredManifest | undefined,
): StoredManifest {
  const [mediaType] = INDEX_MEDIA_TYPES;
  const bytes = new TextEncoder().encode(
    JSON.stringify({
      schemaVersion: 2,
      mediaType,
      ...(subject !== undefined && { artifactType: BLOCK_IMAGE_ARTIFACT_TYPE }),
      manifests: entries.map(({ entry, made }) => ({
        ...made.manifest,
        platform: entry.platform ?? made.platform,
      })),
      ...(subject !== undefined && { subject: subjectOf(subject) }),
    }),
  );
  return { mediaType, bytes, digest: digestOf(hash, bytes) };
}

/** How a referrer names its original. */
function subjectOf({
  mediaType,
  digest,
  bytes,
}: StoredManifest): Pick<Descriptor, 'mediaType' | 'digest' | 'size'> {
  return { mediaType, digest, size: bytes.length };
}
