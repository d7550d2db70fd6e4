import { rename, rm } from 'node:fs/promises';
import type { BlobRef } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import { tarFileHead, tarPadding } from '../../image/tar.ts';
import { hostPlatform, isIndex, selectPlatform } from '../../registry/platform.ts';
import type { BlobOpener } from '../../registry/upload.ts';
import { Limiter } from '../../util/limiter.ts';
import { defined } from '../../util/assert.ts';
import { failing, LocalFile } from '../files.ts';
import { layoutIndex, layoutMarker, TAG_ANNOTATION, type IndexEntry } from '../oci-layout.ts';
import { fullName, parseArchiveName, type ArchiveName } from './archive-name.ts';
import { NAME_ANNOTATION } from './archive-source.ts';
import { pathOf } from './layout-reader.ts';
import { readParts, type StoredManifest } from './manifest-parts.ts';
import type { ImageTarget, PutOptions } from './place.ts';

/** Blobs that wait for the one that is being written. */
const WAITING_MAX = 1024;

/**
 * An archive that `docker load` reads: `docker-archive:FILE[:REF]`. Like those of newer versions of
 * Docker it is an OCI image layout too, so that manifests keep their bytes. The file gets its name
 * in `finish()`, and replaces an earlier one.
 */
export class ArchiveTarget implements ImageTarget {
  readonly name: string;
  readonly tag = undefined;
  readonly #at: ArchiveName;
  readonly #part: string;
  readonly #line = new Limiter({ runningMax: 1, waitingMax: WAITING_MAX });
  readonly #written = new Set<Digest>();
  readonly #manifests = new Map<Digest, StoredManifest>();
  #file: Promise<LocalFile> | undefined;
  #last: StoredManifest | undefined;

  /** Throws ConvertError (`argument`). */
  constructor(name: string) {
    this.name = name;
    this.#at = parseArchiveName(name);
    this.#part = `${this.#at.file}.part-${process.pid}`;
  }

  async hasBlob({ digest }: BlobRef): Promise<boolean> {
    return this.#written.has(digest);
  }

  putBlob(blob: BlobRef, open: BlobOpener, options: PutOptions): Promise<boolean> {
    const put = this.#line.run(() => this.#put(blob, open, options), options.signal);
    return defined(put, 'a copy puts few blobs at a time');
  }

  async putManifest(manifest: StoredManifest, _tag: undefined, signal: AbortSignal): Promise<void> {
    const { digest, bytes } = manifest;
    const one = async function* (): AsyncGenerator<Uint8Array> {
      yield bytes;
    };
    await this.putBlob({ digest, sizeBytes: bytes.length }, one, { signal });
    this.#manifests.set(digest, manifest);
    this.#last = manifest;
  }

  /** An archive has no list of referrers; the manifest is kept. */
  async addReferrer(manifest: StoredManifest, signal: AbortSignal): Promise<boolean> {
    await this.putManifest(manifest, undefined, signal);
    return true;
  }

  async finish(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const image = defined(this.#last, 'the image was put');
    const file = await this.#open();
    await this.#append('oci-layout', layoutMarker());
    await this.#append('index.json', layoutIndex([this.#entryOf(image)]));
    await this.#append('manifest.json', this.#savedOf(image));
    await file.write(file.sizeBytes, new Uint8Array(1024));
    await file.sync();
    await failing(this.#at.file, 'write', () => rename(this.#part, this.#at.file));
  }

  async discard(): Promise<void> {
    const file = await this.#file?.catch(() => undefined);
    this.#file = undefined;
    await file?.close();
    if (file !== undefined) await rm(this.#part, { force: true });
  }

  async #put(
    blob: BlobRef,
    open: BlobOpener,
    { signal, onProgress }: PutOptions,
  ): Promise<boolean> {
    const { digest, sizeBytes } = blob;
    if (this.#written.has(digest)) return false;
    const file = await this.#open();
    await file.write(file.sizeBytes, tarFileHead(pathOf(digest), sizeBytes));
    const start = file.sizeBytes;
    for await (const piece of open()) {
      signal.throwIfAborted();
      await file.write(file.sizeBytes, piece);
      onProgress?.(file.sizeBytes - start);
    }
    await file.write(file.sizeBytes, tarPadding(sizeBytes));
    this.#written.add(digest);
    return true;
  }

  #open(): Promise<LocalFile> {
    this.#file ??= LocalFile.open(this.#part, 'create');
    return this.#file;
  }

  async #append(name: string, bytes: Uint8Array): Promise<void> {
    const file = await this.#open();
    const parts = [tarFileHead(name, bytes.length), bytes, tarPadding(bytes.length)];
    for (const part of parts) await file.write(file.sizeBytes, part);
  }

  #entryOf({ mediaType, digest, bytes }: StoredManifest): IndexEntry {
    const entry = { mediaType, digest, size: bytes.length };
    const { reference } = this.#at;
    if (reference === undefined) return entry;
    const { name, tag } = fullName(reference);
    return { ...entry, annotations: { [NAME_ANNOTATION]: name, [TAG_ANNOTATION]: tag } };
  }

  /** `manifest.json`: of an index, the image for this host, or the first one. */
  #savedOf(image: StoredManifest): Uint8Array {
    const [config, ...layers] = readParts(this.#forHost(image)).blobs;
    const { reference } = this.#at;
    const saved = {
      Config: config && pathOf(config.digest),
      RepoTags: reference === undefined ? null : [withTag(reference)],
      Layers: layers.map(({ digest }) => pathOf(digest)),
    };
    return new TextEncoder().encode(JSON.stringify([saved]));
  }

  #forHost(image: StoredManifest): StoredManifest {
    if (!isIndex(image)) return image;
    const { manifests } = readParts(image);
    let chosen = manifests[0]?.digest;
    try {
      chosen = selectPlatform(image.bytes, hostPlatform(), this.name);
    } catch {
      // It is for other hosts.
    }
    const found = chosen === undefined ? undefined : this.#manifests.get(chosen);
    return found === undefined ? image : this.#forHost(found);
  }
}

/** Docker's form of the name: the tag is always told. */
function withTag(reference: string): string {
  return /:[^/]*$/.test(reference) ? reference : `${reference}:latest`;
}
