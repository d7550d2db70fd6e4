import type { BlobRef } from '../../image/block.ts';
import type { ByteRange } from '../../image/byte-source.ts';
import { digestOf, digestOfSha256, parseDigest, type Digest } from '../../image/digest.ts';
import {
  MANIFEST_MEDIA_TYPES,
  MANIFEST_SIZE_BYTES_MAX,
  CONFIG_MEDIA_TYPE,
  LAYER_MEDIA_TYPE,
} from '../../image/manifest.ts';
import type { Hash } from '../../runtime/codec.ts';
import { errorText } from '../../util/errors.ts';
import { ConvertError } from '../errors.ts';
import { TAG_ANNOTATION, type IndexEntry } from '../oci-layout.ts';
import { isSameName, parseArchiveName, type ArchiveName } from './archive-name.ts';
import { partOf, piecesOf, readSmall, type OpenFile } from './layout-files.ts';
import { LayoutReader } from './layout-reader.ts';
import type { NamedContent, StoredManifest } from './manifest-parts.ts';
import { checkedBlob, type ImagePlace } from './place.ts';
import { TarFiles } from './tar-files.ts';

/** Annotation of an entry of `index.json`: the full name of the image, as containerd writes it. */
export const NAME_ANNOTATION = 'io.containerd.image.name';

/** One image of `manifest.json`. */
interface SavedImage {
  readonly Config: string;
  readonly RepoTags?: readonly string[] | null;
  readonly Layers: readonly string[];
}

/**
 * An image in an archive of `docker save` or `skopeo copy`: `docker-archive:FILE[:REF]`. Newer
 * archives are OCI image layouts, whose manifests are given as they are. In older ones there is
 * none: it is made of the config and the layers, which are not compressed.
 */
export class ArchiveSource implements ImagePlace {
  readonly name: string;
  readonly #hash: Hash;
  readonly #at: ArchiveName;
  #opened: Promise<ImagePlace> | undefined;

  /** Throws ConvertError (`argument`). */
  constructor(components: { readonly hash: Hash }, name: string) {
    this.name = name;
    this.#hash = components.hash;
    this.#at = parseArchiveName(name);
  }

  async resolve(signal: AbortSignal): Promise<StoredManifest> {
    return (await this.#open(signal)).resolve(signal);
  }

  async manifest(digest: Digest, signal: AbortSignal): Promise<StoredManifest> {
    return (await this.#open(signal)).manifest(digest, signal);
  }

  async *openBlob(blob: BlobRef, signal: AbortSignal): AsyncGenerator<Uint8Array> {
    yield* (await this.#open(signal)).openBlob(blob, signal);
  }

  async readPart(blob: BlobRef, range: ByteRange, signal: AbortSignal): Promise<Uint8Array> {
    return (await this.#open(signal)).readPart(blob, range, signal);
  }

  async referrers(...of: Parameters<ImagePlace['referrers']>): Promise<readonly NamedContent[]> {
    return (await this.#open(of[2])).referrers(...of);
  }

  #open(signal: AbortSignal): Promise<ImagePlace> {
    this.#opened ??= this.#find(signal);
    return this.#opened;
  }

  async #find(signal: AbortSignal): Promise<ImagePlace> {
    const files = await TarFiles.open(this.#at.file, signal);
    const [hash, at] = [this.#hash, this.#at];
    if (files.has('index.json') && files.has('oci-layout')) {
      const choose = (entries: readonly IndexEntry[]): IndexEntry => chooseEntry(entries, at);
      return new LayoutReader({ hash }, { name: this.name, files, choose });
    }
    return SavedPlace.open({ hash }, { name: this.name, files, at }, signal);
  }
}

/** An image of `manifest.json`, and the manifest that is made for it. */
class SavedPlace implements ImagePlace {
  readonly name: string;
  readonly #hash: Hash;
  readonly #files: TarFiles;
  readonly #manifest: StoredManifest;
  readonly #paths: ReadonlyMap<Digest, string>;

  private constructor(
    components: { readonly hash: Hash },
    init: {
      readonly name: string;
      readonly files: TarFiles;
      readonly manifest: StoredManifest;
      readonly paths: ReadonlyMap<Digest, string>;
    },
  ) {
    this.name = init.name;
    this.#hash = components.hash;
    this.#files = init.files;
    this.#manifest = init.manifest;
    this.#paths = init.paths;
  }

  static async open(
    { hash }: { readonly hash: Hash },
    where: { readonly name: string; readonly files: TarFiles; readonly at: ArchiveName },
    signal: AbortSignal,
  ): Promise<SavedPlace> {
    const { name, files, at } = where;
    const image = chooseSaved(await readSaved(files), at);
    const config = await readSmall(files, image.Config, MANIFEST_SIZE_BYTES_MAX);
    if (config === undefined) throw lacks(files, image.Config);
    const digest = digestOf(hash, config);
    const paths = new Map([[digest, image.Config]]);
    const layers: object[] = [];
    const diffIds = diffIdsIn(config);
    for (const [i, path] of image.Layers.entries()) {
      const layer = await describe(hash, { files, path, diffId: diffIds[i] }, signal);
      paths.set(layer.digest, path);
      layers.push({ mediaType: layer.mediaType, digest: layer.digest, size: layer.sizeBytes });
    }
    const mediaType = MANIFEST_MEDIA_TYPES[0];
    const made = {
      schemaVersion: 2,
      mediaType,
      config: { mediaType: CONFIG_MEDIA_TYPE, digest, size: config.length },
      layers,
    };
    const bytes = new TextEncoder().encode(JSON.stringify(made));
    const manifest = { mediaType, bytes, digest: digestOf(hash, bytes) };
    return new SavedPlace({ hash }, { name, files, manifest, paths });
  }

  async resolve(): Promise<StoredManifest> {
    return this.#manifest;
  }

  async manifest(digest: Digest): Promise<StoredManifest> {
    if (digest === this.#manifest.digest) return this.#manifest;
    throw lacks(this.#files, digest);
  }

  async *openBlob(blob: BlobRef, signal: AbortSignal): AsyncGenerator<Uint8Array> {
    const file = await this.#file(blob.digest);
    yield* checkedBlob(this.#hash, blob, this.name, piecesOf(file, signal));
  }

  async readPart(blob: BlobRef, range: ByteRange): Promise<Uint8Array> {
    return partOf(await this.#file(blob.digest), range, `blob ${blob.digest}`);
  }

  async referrers(): Promise<readonly NamedContent[]> {
    return [];
  }

  async #file(digest: Digest): Promise<OpenFile> {
    const path = this.#paths.get(digest);
    const file = path === undefined ? undefined : await this.#files.open(path);
    if (file === undefined) throw lacks(this.#files, path ?? digest);
    return file;
  }
}

/** The digest of a layer's file: what the config says when it is not compressed. */
async function describe(
  hash: Hash,
  layer: { readonly files: TarFiles; readonly path: string; readonly diffId: Digest | undefined },
  signal: AbortSignal,
) {
  const { files, path, diffId } = layer;
  const file = await files.open(path);
  if (file === undefined) throw lacks(files, path);
  const { sizeBytes } = file;
  const stream = hash.sha256Stream();
  let mediaType: string | undefined;
  for await (const piece of piecesOf(file, signal)) {
    mediaType ??= LAYER_MEDIA_TYPE + compressionOf(piece);
    // It is checked when the layer is read.
    if (mediaType === LAYER_MEDIA_TYPE && diffId) return { digest: diffId, sizeBytes, mediaType };
    stream.update(piece);
  }
  const digest = digestOfSha256(stream.digest());
  return { digest, sizeBytes, mediaType: mediaType ?? LAYER_MEDIA_TYPE };
}

/** Of each layer, what the config says of its content; nothing where it says nothing sound. */
function diffIdsIn(config: Uint8Array): readonly (Digest | undefined)[] {
  try {
    const { rootfs } = JSON.parse(new TextDecoder().decode(config)) as {
      rootfs?: { diff_ids?: unknown };
    };
    const ids: unknown = rootfs?.diff_ids;
    return Array.isArray(ids) ? ids.map((id) => parseDigest(String(id))) : [];
  } catch {
    return [];
  }
}

function compressionOf(start: Uint8Array): string {
  if (start[0] === 0x1f && start[1] === 0x8b) return '+gzip';
  const isZstd = [0x28, 0xb5, 0x2f, 0xfd].every((byte, i) => start[i] === byte);
  return isZstd ? '+zstd' : '';
}

async function readSaved(files: TarFiles): Promise<readonly SavedImage[]> {
  const { path } = files;
  const bytes = await readSmall(files, 'manifest.json', MANIFEST_SIZE_BYTES_MAX);
  if (bytes === undefined) {
    const what = `${path} has neither manifest.json nor index.json: it is no archive of images`;
    throw new ConvertError(`${what}; \`docker save -o\` makes one`, { code: 'archive', path });
  }
  try {
    const images = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes)) as unknown;
    if (Array.isArray(images) && images.every(isSaved)) return images;
    throw new Error('it lists no images with config and layers');
  } catch (cause) {
    const what = `manifest.json in ${path} cannot be used: ${errorText(cause)}`;
    throw new ConvertError(what, { code: 'archive', path }, { cause });
  }
}

function isSaved(value: unknown): value is SavedImage {
  const { Config, Layers, RepoTags } = Object(value) as Record<string, unknown>;
  const areTexts = (list: unknown): boolean =>
    Array.isArray(list) && list.every((each) => typeof each === 'string');
  return typeof Config === 'string' && areTexts(Layers) && areTexts(RepoTags ?? []);
}

function chooseSaved(images: readonly SavedImage[], at: ArchiveName): SavedImage {
  const named = images.map((image) => ({ image, names: image.RepoTags ?? [] }));
  return choose(named, at).image;
}

function chooseEntry(entries: readonly IndexEntry[], at: ArchiveName): IndexEntry {
  const named = entries
    .filter(({ digest }) => parseDigest(digest) !== undefined)
    .map((image) => {
      const { [NAME_ANNOTATION]: name, [TAG_ANNOTATION]: tag } = image.annotations ?? {};
      return { image, names: [name, tag].filter((each) => each !== undefined) };
    });
  return choose(named, at).image;
}

/** The image of the name, or the only one. */
function choose<T extends { readonly names: readonly string[] }>(
  images: readonly T[],
  { file, reference }: ArchiveName,
): T {
  const fitting =
    reference === undefined
      ? images
      : images.filter(({ names }) =>
          names.some((name) => name === reference || isSameName(name, reference)),
        );
  const [first] = fitting;
  if (first !== undefined && (fitting.length === 1 || reference !== undefined)) return first;
  const known = images.flatMap(({ names }) => names.slice(0, 1)).slice(0, 16);
  const what =
    reference === undefined
      ? `${file} has ${images.length} images; name one: docker-archive:${file}:NAME:TAG`
      : `${file} has no image ${reference}`;
  const has = known.length === 0 ? 'none of its images has a name' : `it has ${known.join(', ')}`;
  throw new ConvertError(`${what}; ${has}`, { code: 'archive', path: file });
}

function lacks({ path }: TarFiles, what: string): ConvertError {
  const text = `${path} lacks ${what}, which its image names; save the image again`;
  return new ConvertError(text, { code: 'archive', path });
}
