import type { Collected } from '../../acceleration/belongings.ts';
import type { Belonging } from '../../acceleration/messages.ts';
import { OWNER_ANNOTATION } from '../../convert/block-manifest.ts';
import { LAYER_TAG_PREFIX } from '../../convert/oci-layout.ts';
import { readParts, type ManifestParts } from '../../convert/places/manifest-parts.ts';
import type { RegistryPlace } from '../../convert/places/registry-place.ts';
import type { BlobOrigin } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import { BLOCK_IMAGE_ARTIFACT_TYPE, INDEX_MEDIA_TYPES } from '../../image/manifest.ts';
import type { RegistryClient } from '../../registry/client.ts';
import { RegistryError } from '../../registry/errors.ts';
import { parseReference } from '../../registry/reference.ts';
import { isReferrersTag } from '../../registry/referrers.ts';
import { assert, defined } from '../../util/assert.ts';

/** Longest wait for one answer of a registry, retries included. */
const ASK_MS_MAX = 60_000;

/** Statuses of a registry that does not let us remove anything. */
const REFUSALS = new Set([401, 403, 405, 501]);

/** What is needed to find out who else refers to something. */
interface Around {
  readonly client: RegistryClient;
  /** Of the repository. */
  readonly place: RegistryPlace;
  /** As which this root signs kept layers. */
  readonly owner: string;
  /** Blobs that hosts read now. */
  readonly readBlobs: ReadonlySet<Digest>;
}

/**
 * Removes what this root has put into one repository, as far as it is still this root's and nobody
 * refers to it: no tag stands for it or for its original, no other manifest names it, and no host
 * reads it. Rejects with RegistryError or ConvertError; what is removed by then stays so.
 */
export async function collect(
  around: Around,
  belongings: readonly Belonging[],
  signal: AbortSignal,
): Promise<Collected> {
  const { repository } = defined(belongings[0], 'there is something to remove');
  assert(
    belongings.every((each) => each.repository === repository),
    'all of one repository',
  );
  const collection = new Collection(around, parseReference(repository), signal);
  return collection.run(belongings);
}

class Collection {
  readonly #around: Around;
  readonly #origin: BlobOrigin;
  readonly #signal: AbortSignal;
  /** What is referred to, and by whom. */
  readonly #referred = new Map<Digest, string>();
  readonly #gone: Digest[] = [];
  readonly #kept = new Map<Digest, string>();

  constructor(around: Around, origin: BlobOrigin, signal: AbortSignal) {
    this.#around = around;
    this.#origin = origin;
    this.#signal = signal;
  }

  async run(belongings: readonly Belonging[]): Promise<Collected> {
    await this.#readTags();
    // An index names the others.
    const isIndex = ({ kind, blobs }: Belonging): boolean => kind === 'image' && blobs.length === 0;
    const order = [...belongings].sort((a, b) => Number(isIndex(b)) - Number(isIndex(a)));
    let refused: string | undefined;
    for (const belonging of order) {
      const reason = await this.#removeUnlessReferred(belonging).catch((error: unknown) => {
        if (!isRefusal(error)) throw error;
        refused = error.message;
        return undefined;
      });
      if (refused !== undefined) break;
      if (reason === undefined) this.#gone.push(belonging.digest);
      else this.#kept.set(belonging.digest, reason);
    }
    return { gone: this.#gone, kept: this.#kept, refused };
  }

  /** Why it stays. */
  async #removeUnlessReferred(belonging: Belonging): Promise<string | undefined> {
    const { client, place, readBlobs } = this.#around;
    const { digest, subject, blobs } = belonging;
    const parts = await this.#own(belonging);
    if (parts === undefined) return undefined;
    const reason =
      this.#referred.get(digest) ??
      (subject && this.#referred.get(subject)) ??
      (blobs.some((blob) => readBlobs.has(blob.digest)) ? 'hosts read it' : undefined) ??
      (await this.#referrerOf(digest));
    if (reason !== undefined) {
      // What an index names stays with it.
      for (const each of parts.manifests) this.#refer(each.digest, reason);
      return reason;
    }
    await client.deleteManifest(this.#origin, digest, this.#options);
    if (subject !== undefined) await place.removeReferrer({ subject, digest }, this.#signal);
    return undefined;
  }

  /** The manifest, where it is there and still what this root has put there. */
  async #own({ kind, digest, subject }: Belonging): Promise<ManifestParts | undefined> {
    const { place, owner } = this.#around;
    try {
      const parts = readParts(await place.manifest(digest, this.#signal));
      const isOwn =
        kind === 'layer'
          ? parts.annotations[OWNER_ANNOTATION] === owner
          : parts.artifactType === BLOCK_IMAGE_ARTIFACT_TYPE && parts.subject === subject;
      return isOwn ? parts : undefined;
    } catch (error) {
      if (!isAbsent(error)) throw error;
      // The list may have it all the same.
      if (subject !== undefined) {
        await place.removeReferrer({ subject, digest }, this.#signal);
      }
      return undefined;
    }
  }

  async #referrerOf(digest: Digest): Promise<string | undefined> {
    const [referrer] = await this.#around.place.referrers(digest, undefined, this.#signal);
    return referrer && `${referrer.digest} refers to it`;
  }

  /** What the tags of the repository stand for, but for those of lists and of kept layers. */
  async #readTags(): Promise<void> {
    const tags = await this.#around.client.tags(this.#origin, this.#options);
    for (const tag of tags) {
      if (tag.startsWith(LAYER_TAG_PREFIX) || isReferrersTag(tag)) continue;
      try {
        const { digest, mediaType } = await this.#head(tag);
        await this.#read(digest, mediaType, `the tag ${tag} stands for it or for its original`);
      } catch (error) {
        if (!isAbsent(error)) throw error;
      }
    }
  }

  async #read(digest: Digest, mediaType: string, reason: string): Promise<void> {
    if (!this.#refer(digest, reason)) return;
    if (!INDEX_MEDIA_TYPES.some((type) => type === mediaType)) return;
    const index = readParts(await this.#around.place.manifest(digest, this.#signal));
    for (const each of index.manifests) await this.#read(each.digest, each.mediaType, reason);
  }

  /** Whether it is news. */
  #refer(digest: Digest, reason: string): boolean {
    if (this.#referred.has(digest)) return false;
    this.#referred.set(digest, reason);
    return true;
  }

  #head(tag: string) {
    return this.#around.client.manifestHead(this.#origin, tag, this.#options);
  }

  get #options() {
    return { signal: this.#signal, timeoutMs: ASK_MS_MAX };
  }
}

function isAbsent(error: unknown): boolean {
  return error instanceof RegistryError && error.code === 'not-found';
}

function isRefusal(error: unknown): error is RegistryError {
  if (!(error instanceof RegistryError)) return false;
  return 'status' in error.detail && REFUSALS.has(Number(error.detail.status));
}
