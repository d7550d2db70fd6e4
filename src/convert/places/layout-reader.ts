import type { BlobRef } from '../../image/block.ts';
import type { ByteRange } from '../../image/byte-source.ts';
import { digestHex, digestOf, parseDigest, type Digest } from '../../image/digest.ts';
import { MANIFEST_SIZE_BYTES_MAX } from '../../image/manifest.ts';
import { referrersTag } from '../../registry/referrers.ts';
import type { Hash } from '../../runtime/codec.ts';
import { ConvertError } from '../errors.ts';
import { readEntries, TAG_ANNOTATION, type IndexEntry } from '../oci-layout.ts';
import { partOf, piecesOf, readSmall, type ImageFiles } from './layout-files.ts';
import { mediaTypeOf, type NamedContent, type StoredManifest } from './manifest-parts.ts';
import { checkedBlob, type ImagePlace } from './place.ts';
import { referrersIn } from './referrers.ts';

/** Which image of a layout is meant. */
export interface LayoutReaderInit {
  readonly name: string;
  readonly files: ImageFiles;
  /** Of the entries of `index.json`, the one that is meant. Throws ConvertError. */
  readonly choose: (entries: readonly IndexEntry[], path: string) => IndexEntry;
}

/** Reads an image in an OCI image layout: in a folder, or in an archive. */
export class LayoutReader implements ImagePlace {
  readonly name: string;
  readonly hash: Hash;
  readonly #files: ImageFiles;
  readonly #choose: LayoutReaderInit['choose'];

  constructor(components: { readonly hash: Hash }, init: LayoutReaderInit) {
    this.name = init.name;
    this.hash = components.hash;
    this.#files = init.files;
    this.#choose = init.choose;
  }

  async resolve(signal: AbortSignal): Promise<StoredManifest> {
    const entry = this.#choose(await this.#entries(), this.#indexPath);
    return this.#stored(entry, signal);
  }

  async manifest(digest: Digest, signal: AbortSignal): Promise<StoredManifest> {
    signal.throwIfAborted();
    const path = pathOf(digest);
    const bytes = await readSmall(this.#files, path, MANIFEST_SIZE_BYTES_MAX);
    if (bytes === undefined) throw this.#missing(digest);
    const actual = digestOf(this.hash, bytes);
    if (actual === digest) return { mediaType: mediaTypeOf(bytes, digest), bytes, digest };
    const what = `${this.name} has damaged content: manifest ${digest} has the digest ${actual}`;
    throw new ConvertError(what, { code: 'digest-mismatch', digest });
  }

  async *openBlob(blob: BlobRef, signal: AbortSignal): AsyncGenerator<Uint8Array> {
    const file = await this.#files.open(pathOf(blob.digest));
    if (file === undefined) throw this.#missing(blob.digest);
    yield* checkedBlob(this.hash, blob, this.name, piecesOf(file, signal));
  }

  async readPart(blob: BlobRef, range: ByteRange, signal: AbortSignal): Promise<Uint8Array> {
    signal.throwIfAborted();
    const file = await this.#files.open(pathOf(blob.digest));
    if (file === undefined) throw this.#missing(blob.digest);
    return partOf(file, range, `blob ${blob.digest}`);
  }

  async referrers(
    digest: Digest,
    artifactType: string | undefined,
    signal: AbortSignal,
  ): Promise<readonly NamedContent[]> {
    const index = await this.tagged(referrersTag(digest), signal);
    return index === undefined ? [] : referrersIn(index, artifactType);
  }

  /** What the tag names; undefined when the layout has no such tag. */
  async tagged(tag: string, signal: AbortSignal): Promise<StoredManifest | undefined> {
    const entries = await this.#entries();
    const entry = entries.find(({ annotations }) => annotations?.[TAG_ANNOTATION] === tag);
    return entry === undefined ? undefined : this.#stored(entry, signal);
  }

  get #indexPath(): string {
    return `${this.#files.path}/index.json`;
  }

  async #entries(): Promise<readonly IndexEntry[]> {
    const bytes = await readSmall(this.#files, 'index.json', MANIFEST_SIZE_BYTES_MAX);
    return bytes === undefined ? [] : readEntries(bytes, this.#indexPath);
  }

  /** The media type is that of the index, as a registry has it from the one that pushed. */
  async #stored(entry: IndexEntry, signal: AbortSignal): Promise<StoredManifest> {
    const digest = parseDigest(entry.digest);
    if (digest === undefined) {
      const what = `${this.#indexPath} names ${JSON.stringify(entry.digest)}, no sha256 digest`;
      throw new ConvertError(what, { code: 'layout', path: this.#files.path });
    }
    const found = await this.manifest(digest, signal);
    return { ...found, mediaType: entry.mediaType || found.mediaType };
  }

  #missing(digest: Digest): ConvertError {
    const what = `${this.#files.path} lacks ${digest}, which its image names; copy that image anew`;
    return new ConvertError(what, { code: 'layout', path: this.#files.path });
  }
}

/** Path of a blob in a layout. */
export function pathOf(digest: Digest): string {
  return `blobs/sha256/${digestHex(digest)}`;
}
