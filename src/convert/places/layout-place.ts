import { rename, rm, stat } from 'node:fs/promises';
import type { BlobRef } from '../../image/block.ts';
import { digestOf, type Digest } from '../../image/digest.ts';
import { INDEX_MEDIA_TYPES } from '../../image/manifest.ts';
import { referrersTag } from '../../registry/referrers.ts';
import type { BlobOpener } from '../../registry/upload.ts';
import type { Hash } from '../../runtime/codec.ts';
import { defined } from '../../util/assert.ts';
import { ConvertError } from '../errors.ts';
import { failing, withFile } from '../files.ts';
import {
  blobPath,
  LAYER_TAG_PREFIX,
  parseLayoutTarget,
  prepareLayout,
  putBlob,
  TAG_ANNOTATION,
  tagManifest,
  type LayoutTarget,
} from '../oci-layout.ts';
import { FolderFiles } from './layout-files.ts';
import { LayoutReader } from './layout-reader.ts';
import { readParts, type StoredManifest } from './manifest-parts.ts';
import { isMismatch, type ImageTarget, type PutOptions } from './place.ts';
import { withReferrer } from './referrers.ts';

/** What a LayoutPlace uses. */
export interface LayoutPlaceComponents {
  readonly hash: Hash;
  /** Is told, for people, of blobs whose content is not that of their digest. */
  readonly onWarning?: ((what: string) => void) | undefined;
}

/** An image in an OCI image layout in a folder, which need not exist yet: `oci:DIR:tag`. */
export class LayoutPlace extends LayoutReader implements ImageTarget {
  readonly #target: LayoutTarget;
  readonly #onWarning: LayoutPlaceComponents['onWarning'];
  /** Blobs that were read: whether they have their digest. */
  readonly #isSound = new Map<Digest, boolean>();
  #prepared: Promise<void> | undefined;
  #partCount = 0;

  /** Throws ConvertError (`argument`). */
  constructor(components: LayoutPlaceComponents, name: string) {
    const target = parseLayoutTarget(name);
    const { directory, tag } = target;
    super(components, {
      name,
      files: new FolderFiles(directory),
      choose: (entries, path) => {
        const entry = entries.find(({ annotations }) => annotations?.[TAG_ANNOTATION] === tag);
        if (entry !== undefined) return entry;
        const all = entries.flatMap(({ annotations }) => annotations?.[TAG_ANNOTATION] ?? []);
        const tags = all.filter((other) => !other.startsWith(LAYER_TAG_PREFIX)).slice(0, 16);
        const known =
          tags.length === 0
            ? 'it has no image at all: check the folder'
            : `it has ${tags.join(', ')}`;
        const what = `${path} has no image with the tag ${tag}; ${known}`;
        throw new ConvertError(what, { code: 'layout', path });
      },
    });
    this.#target = target;
    this.#onWarning = components.onWarning;
  }

  get tag(): string {
    return this.#target.tag;
  }

  /** Reads it: nothing else checks what lies in a folder. A damaged one counts as absent. */
  async hasBlob(blob: BlobRef, signal: AbortSignal): Promise<boolean> {
    const { digest, sizeBytes } = blob;
    const path = blobPath(this.#target.directory, digest);
    const found = await stat(path).catch(() => undefined);
    if (found?.isFile() !== true || found.size !== sizeBytes) return false;
    const known = this.#isSound.get(digest);
    if (known !== undefined) return known;
    let isSound = true;
    try {
      for await (const _ of this.openBlob(blob, signal));
    } catch (error) {
      if (!isMismatch(error)) throw error;
      isSound = false;
      this.#onWarning?.(`${path} is damaged, and is made anew`);
    }
    this.#isSound.set(digest, isSound);
    return isSound;
  }

  async putBlob(blob: BlobRef, open: BlobOpener, options: PutOptions): Promise<boolean> {
    const { signal, onProgress } = options;
    if (await this.hasBlob(blob, signal)) return false;
    await this.#prepare();
    const path = blobPath(this.#target.directory, blob.digest);
    const part = `${path}.part-${process.pid}-${this.#partCount++}`;
    try {
      await withFile(part, 'create', async (file) => {
        for await (const piece of open()) {
          signal.throwIfAborted();
          await file.write(file.sizeBytes, piece);
          onProgress?.(file.sizeBytes);
        }
        await file.sync();
      });
      await failing(path, 'write', () => rename(part, path));
      this.#isSound.set(blob.digest, true);
    } finally {
      await rm(part, { force: true });
    }
    return true;
  }

  async putManifest(
    manifest: StoredManifest,
    tag: string | undefined,
    signal: AbortSignal,
  ): Promise<void> {
    signal.throwIfAborted();
    await this.#prepare();
    const { digest, bytes, mediaType } = manifest;
    const { directory } = this.#target;
    await putBlob(directory, digest, bytes);
    if (tag === undefined) return;
    await tagManifest({ directory, tag }, { digest, mediaType, size: bytes.length });
  }

  async addReferrer(manifest: StoredManifest, signal: AbortSignal): Promise<boolean> {
    const subject = defined(readParts(manifest).subject, 'a referrer names its subject');
    const { digest, bytes } = manifest;
    const isNew = !(await this.hasBlob({ digest, sizeBytes: bytes.length }, signal));
    await this.putManifest(manifest, undefined, signal);
    const tag = referrersTag(subject);
    const list = withReferrer(await this.tagged(tag, signal), manifest);
    if (list === undefined) return isNew;
    const index = { mediaType: INDEX_MEDIA_TYPES[0], bytes: list };
    await this.putManifest({ ...index, digest: digestOf(this.hash, list) }, tag, signal);
    return isNew;
  }

  async finish(): Promise<void> {}

  async discard(): Promise<void> {}

  #prepare(): Promise<void> {
    const { directory } = this.#target;
    this.#prepared ??= prepareLayout(directory);
    return this.#prepared;
  }
}
