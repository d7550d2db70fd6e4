import type { BlobRef } from '../../image/block.ts';
import type { ByteRange } from '../../image/byte-source.ts';
import { digestOf, type Digest } from '../../image/digest.ts';
import { INDEX_MEDIA_TYPES } from '../../image/manifest.ts';
import type { RegistryClient } from '../../registry/client.ts';
import type { FetchedManifest } from '../../registry/manifest-reader.ts';
import { RegistryError } from '../../registry/errors.ts';
import { referrersTag } from '../../registry/referrers.ts';
import { parseReference, type ImageReference } from '../../registry/reference.ts';
import type { BlobOpener } from '../../registry/upload.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Hash } from '../../runtime/codec.ts';
import { halfToAll, type Random } from '../../runtime/random.ts';
import { defined } from '../../util/assert.ts';
import { Scatter } from '../../util/scatter.ts';
import { ConvertError } from '../errors.ts';
import {
  mediaTypeOf,
  readParts,
  type NamedContent,
  type StoredManifest,
} from './manifest-parts.ts';
import {
  checkedBlob,
  isMismatch,
  type ImagePlace,
  type ImageTarget,
  type PutOptions,
} from './place.ts';
import { referrersIn, withoutReferrer, withReferrer } from './referrers.ts';

/** What a RegistryPlace uses. */
export interface RegistryPlaceComponents {
  readonly clock: Clock;
  readonly random: Random;
  readonly hash: Hash;
  /** Loads the HTTP client when it is first needed. */
  readonly client: () => Promise<RegistryClient>;
}

/** A blob is read in ranges of this size, some of them ahead of the reader. (tunable) */
const RANGE_BYTES = 4 * 1024 * 1024;
const RANGES_AHEAD = 3;

/** For any other call; a registry may ask for patience for a minute. (tunable) */
const CALL_MS = 120_000;

/** For one range, retries included; a slow line takes its time. (tunable) */
const RANGE_MS = 5 * 60_000;

/**
 * Another writer may replace the list of referrers that was just put: it is read again after this
 * time, and put again at most this often. (tunable)
 */
const LIST_MS = 300;
const LIST_TRIES_MAX = 10;

/** An image in a registry: `docker://HOST/NAME:TAG` or `docker://HOST/NAME@DIGEST`. */
export class RegistryPlace implements ImagePlace, ImageTarget {
  readonly name: string;
  readonly #components: RegistryPlaceComponents;
  readonly #reference: ImageReference;
  readonly #isUntagged: boolean;
  /** The last change of a list of referrers: one at a time. */
  #listing: Promise<void> = Promise.resolve();

  /**
   * `isUntagged`: what is put there gets no tag, whatever the name says. Throws RegistryError
   * (`invalid-reference`).
   */
  constructor(
    components: RegistryPlaceComponents,
    name: string,
    { isUntagged = false }: { readonly isUntagged?: boolean } = {},
  ) {
    this.name = name;
    this.#isUntagged = isUntagged;
    this.#components = components;
    this.#reference = parseReference(name);
  }

  get tag(): string | undefined {
    const { digest, tag } = this.#reference;
    return digest === undefined && !this.#isUntagged ? tag : undefined;
  }

  async resolve(signal: AbortSignal): Promise<StoredManifest> {
    const { digest, tag } = this.#reference;
    return this.#fetch(defined(digest ?? tag, 'a reference has a tag or a digest'), signal);
  }

  manifest(digest: Digest, signal: AbortSignal): Promise<StoredManifest> {
    return this.#fetch(digest, signal);
  }

  async *openBlob(blob: BlobRef, signal: AbortSignal): AsyncGenerator<Uint8Array> {
    const client = await this.#components.client();
    try {
      yield* checkedBlob(this.#components.hash, blob, this.name, this.#ranges(blob, signal));
    } catch (error) {
      if (isMismatch(error)) client.distrustMirrors(this.#reference.registry);
      throw error;
    }
  }

  async readPart(blob: BlobRef, range: ByteRange, signal: AbortSignal): Promise<Uint8Array> {
    const client = await this.#components.client();
    const bytes = new Uint8Array(range.length);
    const of = { ...blob, origin: this.#reference };
    const options = { signal, timeoutMs: RANGE_MS };
    await client.readBlobInto(of, range.offset, Scatter.of(bytes), options);
    return bytes;
  }

  async referrers(
    digest: Digest,
    artifactType: string | undefined,
    signal: AbortSignal,
  ): Promise<readonly NamedContent[]> {
    const client = await this.#components.client();
    const of = { origin: this.#reference, digest, ...(artifactType && { artifactType }) };
    const pages = await client.referrers(of, { signal, timeoutMs: CALL_MS });
    if (pages !== undefined) {
      return pages.flatMap((bytes) => referrersIn({ bytes, digest }, artifactType));
    }
    const index = await this.#list(digest, signal);
    return index === undefined ? [] : referrersIn(index, artifactType);
  }

  async hasBlob(blob: BlobRef, signal: AbortSignal): Promise<boolean> {
    const client = await this.#components.client();
    const asked = { ...blob, origin: this.#reference };
    return client.hasBlob(asked, { signal, timeoutMs: CALL_MS });
  }

  async putBlob(blob: BlobRef, open: BlobOpener, options: PutOptions): Promise<boolean> {
    const { signal, from, onProgress } = options;
    const { registry, repository } = this.#reference;
    const near = from instanceof RegistryPlace ? from.#reference : undefined;
    const isNear = near?.registry === registry && near.repository !== repository;
    const mountFrom = isNear ? near.repository : undefined;
    const client = await this.#components.client();
    const target = { ...blob, origin: this.#reference };
    return client.pushBlob(target, open, { signal, mountFrom, onProgress });
  }

  async putManifest(
    manifest: StoredManifest,
    tag: string | undefined,
    signal: AbortSignal,
  ): Promise<void> {
    const client = await this.#components.client();
    const target = { origin: this.#reference, tag };
    await client.pushManifest(target, manifest, { signal });
  }

  async addReferrer(manifest: StoredManifest, signal: AbortSignal): Promise<boolean> {
    const subject = defined(readParts(manifest).subject, 'a referrer names its subject');
    const client = await this.#components.client();
    const isNew = !(await this.hasManifest(manifest.digest, signal));
    const { isListed } = await client.pushManifest({ origin: this.#reference }, manifest, {
      signal,
    });
    if (!isListed) {
      await this.#changeList(subject, (list) => withReferrer(list, manifest), signal);
    }
    return isNew;
  }

  /** Whether the repository has the manifest. */
  async hasManifest(digest: Digest, signal: AbortSignal): Promise<boolean> {
    const client = await this.#components.client();
    try {
      await client.manifestDigest(this.#reference, digest, { signal, timeoutMs: CALL_MS });
      return true;
    } catch (error) {
      if (error instanceof RegistryError && error.code === 'not-found') return false;
      throw error;
    }
  }

  /**
   * Takes a manifest out of the list of referrers of its subject. Where the registry keeps that
   * list, this removes the manifest.
   */
  async removeReferrer(
    { subject, digest }: { readonly subject: Digest; readonly digest: Digest },
    signal: AbortSignal,
  ): Promise<void> {
    const client = await this.#components.client();
    const options = { signal, timeoutMs: CALL_MS };
    const pages = await client.referrers({ origin: this.#reference, digest: subject }, options);
    if (pages !== undefined) return client.deleteManifest(this.#reference, digest, options);
    await this.#changeList(subject, (list) => withoutReferrer(list, digest), signal);
  }

  async finish(signal: AbortSignal): Promise<void> {
    const { digest } = this.#reference;
    if (digest === undefined || this.#isUntagged) return;
    // It was put under its own digest.
    try {
      await this.#fetch(digest, signal, true);
    } catch (cause) {
      if (!(cause instanceof RegistryError) || cause.code !== 'not-found') throw cause;
      const what = `the image is not ${digest}, which ${this.name} names; name a tag instead`;
      throw new ConvertError(what, { code: 'argument' }, { cause });
    }
  }

  async discard(): Promise<void> {}

  async #fetch(tagOrDigest: string, signal: AbortSignal, isFresh = false): Promise<StoredManifest> {
    const client = await this.#components.client();
    const options = { signal, isFresh, timeoutMs: CALL_MS };
    return typed(await client.manifest(this.#reference, tagOrDigest, options));
  }

  /** The index that stands in for the list of the registry. */
  async #list(digest: Digest, signal: AbortSignal): Promise<StoredManifest | undefined> {
    try {
      return await this.#fetch(referrersTag(digest), signal, true);
    } catch (error) {
      if (error instanceof RegistryError && error.code === 'not-found') return undefined;
      throw error;
    }
  }

  /**
   * Registries have no way to change a tag only if it is still what was read, so each writer looks
   * whether its change has stayed.
   */
  #changeList(
    subject: Digest,
    change: (list: StoredManifest | undefined) => Uint8Array | undefined,
    signal: AbortSignal,
  ): Promise<void> {
    const changed = this.#listing.then(() => this.#putList(subject, change, signal));
    this.#listing = changed.catch(() => {});
    return changed;
  }

  async #putList(
    subject: Digest,
    change: (list: StoredManifest | undefined) => Uint8Array | undefined,
    signal: AbortSignal,
  ): Promise<void> {
    const { clock, random, hash } = this.#components;
    const tag = referrersTag(subject);
    for (let tries = 0; tries <= LIST_TRIES_MAX; tries++) {
      const bytes = change(await this.#list(subject, signal));
      if (bytes === undefined) return;
      const index = { mediaType: INDEX_MEDIA_TYPES[0], bytes, digest: digestOf(hash, bytes) };
      await this.putManifest(index, tag, signal);
      await clock.sleep(halfToAll(random, LIST_MS), signal);
    }
    const what = `others keep replacing the tag ${tag} of ${this.#reference.repository}`;
    throw new ConvertError(`${what}; try again when they have finished`, { code: 'busy' });
  }

  async *#ranges({ digest, sizeBytes }: BlobRef, signal: AbortSignal): AsyncGenerator<Uint8Array> {
    const left = new AbortController();
    const ended = AbortSignal.any([signal, left.signal]);
    const read = (offset: number): Promise<Uint8Array> => {
      const length = Math.min(RANGE_BYTES, sizeBytes - offset);
      return this.readPart({ digest, sizeBytes }, { offset, length }, ended);
    };
    const ahead: Promise<Uint8Array>[] = [];
    let offset = 0;
    try {
      for (;;) {
        for (; offset < sizeBytes && ahead.length < RANGES_AHEAD; offset += RANGE_BYTES) {
          const range = read(offset);
          range.catch(() => {});
          ahead.push(range);
        }
        const next = ahead.shift();
        if (next === undefined) return;
        yield await next;
      }
    } finally {
      left.abort(new Error('nobody reads the rest'));
      await Promise.allSettled(ahead);
    }
  }
}

/** Some servers give manifests no media type, or a general one. */
function typed({ mediaType, bytes, digest }: FetchedManifest): StoredManifest {
  const isNamed = /manifest|index/.test(mediaType);
  return { mediaType: isNamed ? mediaType : mediaTypeOf(bytes, digest), bytes, digest };
}
