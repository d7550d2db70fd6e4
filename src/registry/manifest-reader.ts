import type { BlobOrigin } from '../image/block.ts';
import { digestOf, parseDigest, type Digest } from '../image/digest.ts';
import { contentFault, manifestFault, typeWithin } from '../image/manifest-form.ts';
import { MANIFEST_ACCEPT, MANIFEST_SIZE_BYTES_MAX } from '../image/manifest.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Hash } from '../runtime/codec.ts';
import { defined } from '../util/assert.ts';
import { ExpiringMap } from '../util/expiring-map.ts';
import { protocolError, RegistryError } from './errors.ts';
import { lengthOf } from './http/blob-range.ts';
import type { BodySink, HttpAnswer, HttpHead } from './http/message.ts';
import { isPassing, TIMEOUT_MS, type OperationOptions } from './http/retry.ts';
import { CollectingSink, HeadSink } from './http/sinks.ts';
import type { CheckedRequest } from './mirror.ts';
import { checkTagOrDigest, registryName } from './reference.ts';

/** Longest wait for the answer to a HEAD, which is a hint alone: a GET follows it. (tunable) */
const LOOK_MS_MAX = 3_000;

/** A registry whose HEAD says nothing of use is asked by GET alone for this long. (tunable) */
const BY_GET_MS = 3_600_000;

/** The same where the HEAD failed in a way that may pass. (tunable) */
const BY_GET_MS_MIN = 60_000;
const REGISTRIES_MAX = 256;

/** A manifest as the registry keeps it. */
export interface FetchedManifest {
  readonly digest: Digest;
  readonly mediaType: string;
  readonly bytes: Uint8Array;
  readonly origin: BlobOrigin;
}

/** Manifests that somebody keeps: what is there is not read of the registry again. */
export interface ManifestShelf {
  manifest(origin: BlobOrigin, digest: Digest): Omit<FetchedManifest, 'origin'> | undefined;
  putManifest(origin: BlobOrigin, manifest: Omit<FetchedManifest, 'origin'>): void;
}

/** How a manifest is read. */
export interface ManifestOptions extends OperationOptions {
  /** Of the registry itself, since mirrors may be behind. */
  readonly isFresh?: boolean | undefined;
  /** What it is sent as counts too: it is passed on with that. */
  readonly isTyped?: boolean | undefined;
  /** Registries count GETs of manifests: a tag is looked at by HEAD, and read if it has moved. */
  readonly shelf?: ManifestShelf | undefined;
}

/** A request that reads; the client adds the scope. */
export interface PullRequest<S> extends Omit<CheckedRequest<S>, 'scope'> {
  /** No mirror is asked. */
  readonly isFresh?: boolean | undefined;
  /** Where a mirror is asked in another way. */
  readonly openAtMirror?: CheckedRequest<S>['open'];
  /** What tries are shared by; each request has its own when absent. */
  readonly key?: string;
  /** Whether part of what is asked has come: what breaks off then fails with `BrokeOff`. */
  readonly brokeOff?: () => boolean;
}

interface Components {
  readonly clock: Clock;
  readonly hash: Hash;
  readonly pull: <S extends BodySink>(
    origin: BlobOrigin,
    options: OperationOptions,
    request: PullRequest<S>,
  ) => Promise<HttpAnswer<S>>;
}

/** What a HEAD says of a manifest. */
interface Look {
  readonly digest?: Digest | undefined;
  readonly mediaType?: string;
  readonly sizeBytes?: number | undefined;
  /** It failed, and the next one need not. */
  readonly mayPass?: boolean;
}

/** Reads manifests and indexes, with few requests of the kind that registries count. */
export class ManifestReader {
  readonly #parts: Components;
  /** Registries whose HEAD says nothing of use. */
  readonly #byGet: ExpiringMap<true>;

  constructor(components: Components) {
    this.#parts = components;
    this.#byGet = new ExpiringMap(components, { entriesMax: REGISTRIES_MAX });
  }

  /** By tag or digest, at most 4 MiB, checked against its digest. Rejects with RegistryError. */
  async read(
    origin: BlobOrigin,
    tagOrDigest: string,
    options: ManifestOptions = {},
  ): Promise<FetchedManifest> {
    checkTagOrDigest(tagOrDigest);
    const { shelf } = options;
    if (shelf === undefined) return this.#get(origin, tagOrDigest, options);
    const { clock } = this.#parts;
    const deadlineMs = clock.nowMs() + (options.timeoutMs ?? TIMEOUT_MS);
    const asked = parseDigest(tagOrDigest);
    const looks = asked === undefined && this.#mayLook(origin);
    const looked = looks ? await this.#look(origin, tagOrDigest, options) : undefined;
    const digest = asked ?? looked?.digest;
    const kept = digest === undefined ? undefined : shelf.manifest(origin, digest);
    if (kept !== undefined) return { ...kept, origin };
    const left = { ...options, timeoutMs: deadlineMs - clock.nowMs() };
    const found = await this.#get(origin, tagOrDigest, left);
    if (looked !== undefined && looked.digest === undefined) this.#learn(origin, looked);
    const isSound = manifestFault(found.bytes, found.mediaType) === undefined;
    if (isSound) shelf.putManifest(origin, found);
    return found;
  }

  /** Digest and media type of what the registry itself has, by HEAD where that tells them. */
  async head(
    origin: BlobOrigin,
    tagOrDigest: string,
    options: OperationOptions,
  ): Promise<Pick<FetchedManifest, 'digest' | 'mediaType'>> {
    checkTagOrDigest(tagOrDigest);
    const fresh = { ...options, isFresh: true };
    const { digest, mediaType = '' } = await this.#head(origin, tagOrDigest, fresh);
    return digest === undefined ? this.#get(origin, tagOrDigest, fresh) : { digest, mediaType };
  }

  /**
   * Size of a manifest in bytes, which shows too that it may be read. By HEAD, where the answer
   * names the same digest.
   */
  async size(origin: BlobOrigin, digest: Digest, options: OperationOptions): Promise<number> {
    const look = this.#mayLook(origin) ? await this.#look(origin, digest, options) : undefined;
    if (look?.digest === digest && look.sizeBytes !== undefined) return look.sizeBytes;
    const { bytes } = await this.#get(origin, digest, options);
    if (look !== undefined) this.#learn(origin, look);
    return bytes.length;
  }

  #mayLook({ registry }: BlobOrigin): boolean {
    return this.#byGet.get(registryName(registry)) === undefined;
  }

  /** HEAD said nothing of what GET then gave. */
  #learn({ registry }: BlobOrigin, { mayPass }: Look): void {
    const forMs = mayPass === true ? BY_GET_MS_MIN : BY_GET_MS;
    this.#byGet.set(registryName(registry), true, forMs);
  }

  /** Without a digest when the HEAD leaves open what there is: it is refused, or names none. */
  async #look(origin: BlobOrigin, tagOrDigest: string, options: ManifestOptions): Promise<Look> {
    const { timeoutMs = TIMEOUT_MS } = options;
    const brief = { ...options, timeoutMs: Math.min(timeoutMs / 2, LOOK_MS_MAX), attemptsMax: 1 };
    try {
      return await this.#head(origin, tagOrDigest, brief);
    } catch (error) {
      options.signal?.throwIfAborted();
      // It holds for the GET as well.
      const isLimited = error instanceof RegistryError && error.code === 'rate-limited';
      if (isLimited || !(error instanceof RegistryError)) throw error;
      return { mayPass: isPassing(error) };
    }
  }

  async #head(origin: BlobOrigin, tagOrDigest: string, options: ManifestOptions): Promise<Look> {
    const { head } = await this.#parts.pull(origin, options, {
      method: 'HEAD',
      path: pathOf(origin, tagOrDigest),
      headers: { accept: MANIFEST_ACCEPT },
      isQuestion: true,
      isFresh: options.isFresh,
      open: () => new HeadSink(),
      openAtMirror: (answer) => {
        // The next one may tell it.
        if (lookOf(answer).digest !== undefined) return new HeadSink();
        throw protocolError('no-digest', `the answer to HEAD of ${tagOrDigest} names no digest`);
      },
    });
    return lookOf(head);
  }

  async #get(
    origin: BlobOrigin,
    tagOrDigest: string,
    options: ManifestOptions,
  ): Promise<FetchedManifest> {
    const what = `manifest ${tagOrDigest} of ${origin.registry}/${origin.repository}`;
    const named = parseDigest(tagOrDigest);
    const [isTyped, isNamed] = [options.isTyped === true, named !== undefined];
    let digest: Digest | undefined;
    const { sink } = await this.#parts.pull(origin, options, {
      method: 'GET',
      path: pathOf(origin, tagOrDigest),
      headers: { accept: MANIFEST_ACCEPT },
      isQuestion: true,
      isFresh: options.isFresh,
      open: (head) => new ManifestSink({ what, sentAs: mediaTypeIn(head), isTyped, isNamed }),
      check: (answer) => {
        const announced = answer.head.headers['docker-content-digest'];
        const wanted = named ?? parseDigest(String(announced));
        digest = this.#digestOf(answer.sink.bytes(), wanted, what);
        answer.sink.check();
      },
    });
    const [bytes, mediaType] = [sink.bytes(), sink.mediaType()];
    return { digest: defined(digest, 'a manifest is checked'), mediaType, bytes, origin };
  }

  #digestOf(bytes: Uint8Array, wanted: Digest | undefined, what: string): Digest {
    const actual = digestOf(this.#parts.hash, bytes);
    if (wanted === undefined || wanted === actual) return actual;
    throw new RegistryError(`${what} has digest ${actual}, not ${wanted}`, {
      code: 'digest-mismatch',
      expected: wanted,
      actual,
    });
  }
}

interface SinkInit {
  readonly what: string;
  readonly sentAs: string;
  readonly isTyped: boolean;
  /** By a digest, which tells what is wrong. */
  readonly isNamed: boolean;
}

/** Takes what may be a manifest, and throws RegistryError at the end of what is none. */
class ManifestSink extends CollectingSink {
  readonly #init: SinkInit;

  constructor(init: SinkInit) {
    super({ what: init.what, sizeBytesMax: MANIFEST_SIZE_BYTES_MAX });
    this.#init = init;
  }

  /** As the server named it, or where it did not, as its content does. */
  mediaType(): string {
    return this.#init.sentAs || typeWithin(this.bytes());
  }

  /** Throws RegistryError when it is no manifest. */
  check(): void {
    const { what, isTyped } = this.#init;
    const bytes = this.bytes();
    const fault = isTyped ? manifestFault(bytes, this.mediaType()) : contentFault(bytes);
    if (fault === undefined) return;
    throw protocolError('no-manifest', `${what}: what came is no manifest: ${fault}`);
  }

  override end(): void {
    super.end();
    // Pages are for strangers: the registry may give the manifest to somebody with credentials.
    if (!this.#init.isNamed || /^\s*(?:<|$)/.test(this.#begin())) this.check();
  }

  #begin(): string {
    return Buffer.from(this.bytes().subarray(0, 64)).toString('latin1');
  }
}

function pathOf({ repository }: BlobOrigin, tagOrDigest: string): string {
  return `/v2/${repository}/manifests/${tagOrDigest}`;
}

function lookOf(head: HttpHead): Look {
  const digest = parseDigest(String(head.headers['docker-content-digest']));
  return { digest, mediaType: mediaTypeIn(head), sizeBytes: lengthOf(head) || undefined };
}

function mediaTypeIn(head: HttpHead): string {
  return (head.headers['content-type'] ?? '').split(';')[0]?.trim() ?? '';
}
