import type { BlobOrigin } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import { BLOCK_IMAGE_ARTIFACT_TYPE } from '../image/manifest.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Logger } from '../runtime/logger.ts';
import type { RegistryClient } from './client.ts';
import { RegistryError } from './errors.ts';
import type { FetchedManifest, ManifestShelf } from './manifest-reader.ts';
import { parseReference } from './reference.ts';
import { referrersOfType, referrersTag, type Referrer } from './referrers.ts';
import { RETRY_AFTER_MS_MAX, type OperationOptions } from './http/retry.ts';
import type { OwnRefusals } from './own-refusals.ts';
import { hostPlatform } from './platform.ts';
import {
  OriginError,
  type Origin,
  type OriginBlob,
  type OriginErrorDetail,
  type ResolveReply,
  type BlobStat,
  type NamedImage,
} from '../transfer/contracts/origin.ts';
import { unreachable } from '../util/assert.ts';
import { errorText } from '../util/errors.ts';
import { ExpiringMap } from '../util/expiring-map.ts';
import type { Scatter } from '../util/scatter.ts';
import type { RegistryViews } from './registry-views.ts';
import type { BelievedSources } from './sources.ts';

/**
 * A refusal to anybody without credentials is believed for this long, so that each blob of a
 * private repository costs one request. (tunable)
 */
const PRIVATE_MS = 300_000;
const PRIVATE_MAX = 4096;

/**
 * Wait for the answer to somebody without credentials, after which ours are shown beside it. Both
 * stay open: a cache that is silent until it has all of a blob begins anew for each request.
 * (tunable)
 */
const PROBE_MS_MAX = 10_000;

/**
 * Attempts at the size of a blob, by nobody and then by ourselves: clients wait for the word, and
 * those that go elsewhere by themselves want it soon. A blob that is wrongly called private is
 * still read, by those whom the registry lets. (tunable)
 */
const PROBE_ATTEMPTS_MAX = 1;
const STAT_ATTEMPTS_MAX = 2;

/**
 * A read stays open for this long, however silent the registry is: caches that fetch a blob first
 * begin anew when their client goes away. Those that wait for it have deadlines of their own.
 * (tunable)
 */
const READ_MS_MAX = 180_000;

/**
 * A definite no, or the same unsound answer twice, is told to all who want the blob for this long
 * without asking again. (tunable)
 */
const DEFINITE_MS = 5_000;
const DEFINITE_MAX = 4096;

interface RegistryOriginComponents {
  readonly clock: Clock;
  readonly logger: Logger;
  /** Gives the registries, which it makes when they are first asked. */
  readonly load: () => Promise<RegistryViews>;
  /** The same, unless nobody has asked them yet. */
  readonly loaded: () => Promise<RegistryViews> | undefined;
  readonly sources: BelievedSources;
  /** Hears of what our credentials were refused. */
  readonly refusals?: OwnRefusals | undefined;
}

/**
 * The registries of the configuration, and any other over HTTPS, as the origin of blocks and
 * images. Images are those for the platform of this host.
 */
export class RegistryOrigin implements Origin {
  readonly #components: RegistryOriginComponents;
  /**
   * Repositories that recently refused to an anonymous request what they gave to our credentials.
   */
  readonly #private: ExpiringMap<true>;
  /** Why blobs could not be read. */
  readonly #definite: ExpiringMap<OriginError>;
  #shelf: ManifestShelf | undefined;

  constructor(components: RegistryOriginComponents) {
    this.#components = components;
    this.#private = new ExpiringMap(components, { entriesMax: PRIVATE_MAX });
    this.#definite = new ExpiringMap(components, { entriesMax: DEFINITE_MAX });
  }

  /** Manifests go there, and those that are there are not read of a registry again. */
  keepManifests(shelf: ManifestShelf): void {
    this.#shelf = shelf;
  }

  async readInto(
    blob: OriginBlob,
    offset: number,
    target: Scatter,
    signal: AbortSignal,
  ): Promise<void> {
    const { digest, sizeBytes, origin } = blob;
    const key = `${origin.registry}/${origin.repository}@${digest} ${sizeBytes}`;
    const known = this.#definite.get(key);
    if (known !== undefined) throw known;
    const options = { signal, timeoutMs: READ_MS_MAX, isAlone: true };
    try {
      await this.#ask(({ own }) => own.readBlobInto(blob, offset, target, options));
    } catch (error) {
      if (!(error instanceof OriginError)) throw error;
      this.#components.refusals?.note(origin, error.cause);
      if (error.code !== 'unavailable') this.#definite.set(key, error, DEFINITE_MS);
      throw error;
    }
  }

  named(reference: string): NamedImage {
    try {
      const { registry, repository, digest } = parseReference(reference);
      return { origin: { registry, repository }, digest };
    } catch (cause) {
      throw asOriginError(cause);
    }
  }

  resolve(reference: string, signal: AbortSignal): Promise<ResolveReply> {
    return this.#ask(async ({ own }) => {
      const shelf = this.#shelf;
      const found = await own.resolve(reference, hostPlatform(), { signal, shelf });
      this.#components.logger.info(
        { reference, digest: found.digest },
        'image resolved at the registry',
      );
      return { manifestDigest: found.digest, manifest: found.bytes, origin: found.origin };
    });
  }

  /**
   * A manifest or an index as the registry keeps it, by tag or digest, to be passed on. Rejects
   * with RegistryError, or with the signal's reason.
   */
  async manifest(
    origin: BlobOrigin,
    reference: string,
    options: OperationOptions,
  ): Promise<FetchedManifest> {
    const { own } = await this.#components.load();
    const typed = { ...options, shelf: this.#shelf, isTyped: true };
    return this.#noting(origin, own.manifest(origin, reference, typed));
  }

  /**
   * The block images among the referrers of a manifest: as the registry lists them, or as the tag
   * does that stands in for its list. Rejects as `manifest()` does.
   */
  async blockImages(
    origin: BlobOrigin,
    digest: Digest,
    options: OperationOptions,
  ): Promise<readonly Referrer[]> {
    const { own } = await this.#components.load();
    const artifactType = BLOCK_IMAGE_ARTIFACT_TYPE;
    const pages = await own.referrers({ origin, digest, artifactType }, options);
    if (pages !== undefined) return referrersOfType(pages, artifactType);
    try {
      const tagged = { ...options, isFresh: true, shelf: this.#shelf };
      const { bytes } = await own.manifest(origin, referrersTag(digest), tagged);
      return referrersOfType([bytes], artifactType);
    } catch (error) {
      if (error instanceof RegistryError && error.code === 'not-found') return [];
      throw error;
    }
  }

  believes(origin: BlobOrigin): boolean {
    return this.#components.sources.believesOrigin(origin);
  }

  /**
   * Size of a blob, and whether anybody may read it; not remembered. Rejects with OriginError.
   */
  async stat(digest: Digest, origin: BlobOrigin, signal: AbortSignal): Promise<BlobStat> {
    const key = `${origin.registry}/${origin.repository}`;
    // Any server may say that a blob is public: those that nobody chose are not believed.
    const isKnown = this.#components.sources.isRegistry(origin.registry);
    if (!isKnown || this.#private.get(key) !== undefined) {
      return { sizeBytes: await this.#ownSize(digest, origin, signal), isPublic: false };
    }
    const probing = this.#probe(digest, origin, signal);
    const probed = await this.#orLate(probing);
    if (typeof probed === 'number') return { sizeBytes: probed, isPublic: true };
    if (signal.aborted) throw asOriginError(signal.reason);
    const own = this.#ownSize(digest, origin, signal);
    if (probed === 'late') return firstOf(probing, own);
    const sizeBytes = await own;
    if (probed === 'refused') this.#private.set(key, true, PRIVATE_MS);
    return { sizeBytes, isPublic: probed === 'refused' ? false : undefined };
  }

  #ownSize(digest: Digest, origin: BlobOrigin, signal: AbortSignal): Promise<number> {
    const options = { origin, signal, attemptsMax: STAT_ATTEMPTS_MAX };
    return this.#ask(({ own }) => this.#noting(origin, sizeOf(own, digest, options)));
  }

  async #noting<T>(origin: BlobOrigin, read: Promise<T>): Promise<T> {
    try {
      return await read;
    } catch (error) {
      this.#components.refusals?.note(origin, error);
      throw error;
    }
  }

  /** What the probe says, unless that takes long. */
  async #orLate<T>(probing: Promise<T>): Promise<T | 'late'> {
    const { promise: late, resolve } = Promise.withResolvers<'late'>();
    const timer = this.#components.clock.setTimer(PROBE_MS_MAX, () => resolve('late'));
    try {
      return await Promise.race([probing, late]);
    } finally {
      timer.cancel();
    }
  }

  distrust(origin: BlobOrigin): void {
    // Nothing was read of registries that were never asked.
    const { loaded } = this.#components;
    loaded()
      ?.then(({ registries }) => registries.distrustMirrors(origin.registry))
      .catch(() => {});
  }

  /**
   * The size of a blob that the registry gives to anybody. Some registries say of what is private
   * that it is not there, or lead strangers to a page.
   */
  async #probe(
    digest: Digest,
    origin: BlobOrigin,
    signal: AbortSignal,
  ): Promise<number | 'refused' | undefined> {
    const options = { origin, signal, attemptsMax: PROBE_ATTEMPTS_MAX };
    try {
      const { nobody } = await this.#components.load();
      return await sizeOf(nobody, digest, options);
    } catch (error) {
      const code = originCode(error);
      return code === 'unavailable' || code === 'limited' ? undefined : 'refused';
    }
  }

  async #ask<T>(call: (views: RegistryViews) => Promise<T>): Promise<T> {
    try {
      return await call(await this.#components.load());
    } catch (cause) {
      throw asOriginError(cause);
    }
  }
}

/** What is found out first: that anybody may read the blob, or its size alone. */
async function firstOf(
  probing: Promise<number | 'refused' | undefined>,
  own: Promise<number>,
): Promise<BlobStat> {
  const byProbe = probing.then(async (found): Promise<BlobStat> => {
    if (typeof found === 'number') return { sizeBytes: found, isPublic: true };
    return { sizeBytes: await own, isPublic: found === 'refused' ? false : undefined };
  });
  const byOwn = own.then((sizeBytes): BlobStat => ({ sizeBytes, isPublic: undefined }));
  // Where both fail, what our credentials were told says more.
  return Promise.any([byProbe, byOwn]).catch(() => byOwn);
}

function asOriginError(cause: unknown): OriginError {
  if (cause instanceof OriginError) return cause;
  const code = originCode(cause);
  return new OriginError(errorText(cause), { code }, { cause });
}

function originCode(error: unknown): OriginErrorDetail['code'] {
  // What is not of the registry is the abort of the caller.
  if (!(error instanceof RegistryError)) return 'unavailable';
  const { detail } = error;
  switch (detail.code) {
    case 'invalid-reference':
    case 'no-platform':
    case 'not-found':
      return 'not-found';
    case 'unauthorized':
    case 'denied':
      return 'refused';
    case 'digest-mismatch':
    case 'too-large':
      return 'protocol';
    case 'protocol':
      return detail.fault === 'cut-body' ? 'unavailable' : 'protocol';
    case 'rate-limited':
      return (detail.retryAfterMs ?? 0) > RETRY_AFTER_MS_MAX ? 'limited' : 'unavailable';
    case 'unavailable':
    case 'timeout':
    case 'overloaded':
    case 'closed':
      return 'unavailable';
    default:
      return unreachable(detail);
  }
}

interface SizeOptions extends OperationOptions {
  readonly origin: BlobOrigin;
}

/**
 * Size of a blob; of a manifest, which the mirror asks about too, when the repository has it as
 * one.
 */
async function sizeOf(
  client: RegistryClient,
  digest: Digest,
  { origin, ...options }: SizeOptions,
): Promise<number> {
  try {
    return await client.blobSize(origin, digest, options);
  } catch (error) {
    if (!(error instanceof RegistryError) || error.code !== 'not-found') throw error;
    const sizeBytes = await client.manifestSize(origin, digest, options).catch(() => undefined);
    if (sizeBytes === undefined) throw error;
    return sizeBytes;
  }
}
