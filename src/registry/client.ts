import type { BlobOrigin, BlobRef } from '../image/block.ts';
import { digestOf, type Digest } from '../image/digest.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Hash } from '../runtime/codec.ts';
import { silentMetrics, type Metrics } from '../runtime/metrics.ts';
import type { Random } from '../runtime/random.ts';
import { defined } from '../util/assert.ts';
import {
  checkWhole,
  missingOf,
  openRange,
  pageSink,
  RANGE_NOT_SATISFIABLE,
  rangeHeader,
  sizeOfFirstByte,
  type BlobRun,
} from './http/blob-range.ts';
import { parseContentRange } from './http/content-range.ts';
import { protocolError, RegistryError } from './errors.ts';
import type { BodySink, HttpAnswer, HttpHead } from './http/message.ts';
import { registryMetrics, type RegistryMetrics } from './metrics.ts';
import {
  ManifestReader,
  type FetchedManifest,
  type ManifestOptions,
  type PullRequest,
} from './manifest-reader.ts';
import type { Platform } from './platform.ts';
import { deleteManifest, hasBlob, putManifest, readReferrers, type NewManifest } from './push.ts';
import { checkOrigin, checkTag, registryName } from './reference.ts';
import type { Registries, Registry, View } from './registries.ts';
import type { RegistryServer } from './server.ts';
import { resolveImage } from './resolve-image.ts';
import { readTags } from './tags.ts';
import {
  isPassing,
  TIMEOUT_MS,
  withDeadline,
  withRetries,
  type OperationLimits,
  type OperationOptions,
} from './http/retry.ts';
import { askPatiently } from './http/patience.ts';
import { HeadSink } from './http/sinks.ts';
import { SharedTries } from './http/shared-tries.ts';
import { Rangeless, WholeReads, type Transfer } from './http/whole-reads.ts';
import { uploadBlob, type BlobOpener, type UploadOptions } from './upload.ts';
import { Scatter } from '../util/scatter.ts';

/**
 * A server may send less than it was asked for, and is asked for the rest: at most this number of
 * parts.
 */
const PARTS_MAX = 64;

/** The operations at unlisted registries take their places together. */
const UNLISTED = '';

/** A registry looks at all blobs of a manifest before it takes it. (tunable) */
const PUSH_MANIFEST_MS = 120_000;

interface RegistryClientComponents {
  readonly clock: Clock;
  readonly random: Random;
  readonly hash: Hash;
  readonly metrics?: Metrics;
  readonly rangeless?: Rangeless;
  /** Outlive the client; their maker closes them. */
  readonly registries: Registries;
}

/** A way to ask for the size of a blob. */
interface SizeRequest {
  readonly method: 'GET' | 'HEAD';
  readonly range?: string;
}

type OriginBlob = BlobRef & { readonly origin: BlobOrigin };

/**
 * Reads from registries, and writes to them, by the OCI distribution API. Everything rejects with
 * RegistryError, or with the reason of the caller's signal; every operation has a deadline (30 s
 * unless the caller names one). A client is one view of the registries.
 */
export class RegistryClient {
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #hash: Hash;
  readonly #metrics: RegistryMetrics;
  readonly #registries: Registries;
  readonly #view: View;
  readonly #rangeless: Rangeless;
  readonly #wholes: WholeReads;
  /** By blob. */
  readonly #tries: SharedTries;
  readonly #manifests: ManifestReader;

  constructor(components: RegistryClientComponents, init: { readonly view: View }) {
    this.#clock = components.clock;
    this.#random = components.random;
    this.#hash = components.hash;
    this.#metrics = registryMetrics(components.metrics ?? silentMetrics);
    this.#registries = components.registries;
    this.#view = init.view;
    this.#rangeless = components.rangeless ?? new Rangeless(components);
    this.#wholes = new WholeReads({ ...components, rangeless: this.#rangeless });
    this.#tries = new SharedTries({ ...components, metrics: this.#metrics });
    this.#manifests = new ManifestReader({
      ...components,
      pull: (...asked) => this.#pull(...asked),
    });
  }

  /**
   * The manifest of an image for a platform, checked against its digest; an index leads to the one
   * of the platform.
   */
  resolve(
    reference: string,
    platform: Platform,
    options: ManifestOptions = {},
  ): Promise<FetchedManifest> {
    const manifest = (origin: BlobOrigin, name: string): Promise<FetchedManifest> =>
      this.manifest(origin, name, options);
    const blob = async (wanted: OriginBlob): Promise<Uint8Array> => {
      const bytes = new Uint8Array(wanted.sizeBytes);
      await this.readBlobInto(wanted, 0, Scatter.of(bytes), options);
      return bytes;
    };
    return resolveImage({ manifest, blob }, reference, platform);
  }

  /**
   * A manifest or an index by its tag or digest, at most 4 MiB, checked against its digest.
   */
  manifest(
    origin: BlobOrigin,
    tagOrDigest: string,
    options: ManifestOptions = {},
  ): Promise<FetchedManifest> {
    return this.#manifests.read(origin, tagOrDigest, options);
  }

  /** Size of a manifest in bytes, which shows too that it may be read. */
  manifestSize(
    origin: BlobOrigin,
    digest: Digest,
    options: OperationOptions = {},
  ): Promise<number> {
    return this.#manifests.size(origin, digest, options);
  }

  /** The digest of a manifest that the registry itself has, as `manifestHead()` gives it. */
  async manifestDigest(
    origin: BlobOrigin,
    tagOrDigest: string,
    options: OperationOptions = {},
  ): Promise<Digest> {
    return (await this.manifestHead(origin, tagOrDigest, options)).digest;
  }

  /**
   * Digest and media type of a manifest that the registry itself has, by its tag or digest. A HEAD,
   * which registries that count pulls do not count.
   */
  manifestHead(
    origin: BlobOrigin,
    tagOrDigest: string,
    options: OperationOptions = {},
  ): Promise<Pick<FetchedManifest, 'digest' | 'mediaType'>> {
    return this.#manifests.head(origin, tagOrDigest, options);
  }

  /**
   * Fills `target` with the bytes of the blob from `offset` on, as they come. Nothing is written to
   * it after the call has settled.
   */
  async readBlobInto(
    blob: OriginBlob,
    offset: number,
    target: Scatter,
    options: OperationOptions = {},
  ): Promise<void> {
    const { timeoutMs = TIMEOUT_MS } = options;
    const deadlineMs = this.#clock.nowMs() + timeoutMs;
    const run = { offset, target, sizeBytes: blob.sizeBytes };
    for (let parts = 0; !target.isFull; parts++) {
      if (parts === PARTS_MAX) {
        const what = `bytes from ${offset} on of ${blob.digest}`;
        const why = `${what}: ${target.filled} came in ${parts} parts, and more are missing`;
        throw protocolError('bad-content-range', why);
      }
      const left = { ...options, timeoutMs: deadlineMs - this.#clock.nowMs() };
      await this.#readPart(blob, run, left);
    }
  }

  /** Reads what the run misses, or the first part of it if the server gives no more. */
  async #readPart(blob: OriginBlob, run: BlobRun, options: OperationOptions): Promise<void> {
    const { origin, digest } = blob;
    const range = missingOf(run);
    const path = blobPath(origin, digest);
    const key = `${origin.registry}${path}`;
    const header = rangeHeader(range);
    const what = `${header} of ${digest}`;
    const isRead = await this.#wholes.ranged(key, async () => {
      const before = run.target.filled;
      await this.#pull(origin, options, {
        method: 'GET',
        path,
        headers: { range: header },
        blob: digest,
        answers: [RANGE_NOT_SATISFIABLE],
        key,
        brokeOff: () => run.target.filled > before,
        open: (head) => openRange(head, range, what, 0),
        openAtMirror: (head) => openRange(head, range, what),
      }).catch(unlessBrokeOff);
    });
    if (isRead) return;
    await this.#operate(origin, options, ({ server }, limits) =>
      this.#tries.run(key, limits, async () => {
        const transfer: Transfer = (open, signal) =>
          server.request(
            {
              ...{ method: 'GET', path, headers: {}, blob: digest, isPatient: true },
              scope: pullScope(origin),
              open: (head, _isServer, flow) => {
                checkWhole(head, blob.sizeBytes, `blob ${digest}`);
                return open(flow);
              },
            },
            signal,
          );
        const before = run.target.filled;
        try {
          await this.#wholes.read(key, run, transfer, limits.signal);
        } catch (error) {
          if (isCut(error) && run.target.filled > before) throw new BrokeOff();
          throw error;
        }
      }),
    ).catch(unlessBrokeOff);
  }

  /**
   * Size of a blob in bytes, as a GET of its first byte tells it: many registries and storages
   * answer a HEAD in another way. Where that leaves the size out, a HEAD may tell it, or a GET of
   * all, of which the head is read.
   */
  async blobSize(
    origin: BlobOrigin,
    digest: Digest,
    options: OperationOptions = {},
  ): Promise<number> {
    const { timeoutMs = TIMEOUT_MS } = options;
    const deadlineMs = this.#clock.nowMs() + timeoutMs;
    const ask = (asked: SizeRequest): Promise<number | undefined> => {
      const left = { ...options, timeoutMs: deadlineMs - this.#clock.nowMs() };
      return this.#askSize({ origin, digest }, asked, left);
    };
    const byFirst = await orNoSize(ask({ method: 'GET', range: 'bytes=0-0' }));
    if (byFirst !== undefined) return byFirst;
    // A hint, never a verdict.
    const byHead = await ask({ method: 'HEAD' }).catch((error: unknown) => {
      if (!(error instanceof RegistryError)) throw error;
    });
    return byHead ?? defined(await ask({ method: 'GET' }), 'the size of an answer to a GET');
  }

  async #askSize(
    { origin, digest }: { readonly origin: BlobOrigin; readonly digest: Digest },
    { method, range }: SizeRequest,
    options: OperationOptions,
  ): Promise<number | undefined> {
    const what = `blob ${digest} of ${nameOf(origin)}`;
    const key = `${origin.registry}${blobPath(origin, digest)}`;
    let sizeBytes: number | undefined;
    const open = (head: HttpHead, isServer: boolean): BodySink => {
      const about = { digest, isServer, what };
      sizeBytes = sizeOfFirstByte(head, about);
      const isPart = range !== undefined && parseContentRange(head.headers['content-range']);
      if (sizeBytes === undefined && !isPart) {
        throw protocolError('no-size', `${what}: the registry does not tell its size`);
      }
      return method === 'GET' ? pageSink(head, about) : new HeadSink();
    };
    await this.#pull(origin, options, {
      method,
      path: blobPath(origin, digest),
      headers: range === undefined ? {} : { range },
      // A HEAD may fail where the blob is given.
      ...(method === 'GET' && { key }),
      isQuestion: true,
      // Of an empty blob it is the answer.
      answers: [RANGE_NOT_SATISFIABLE],
      open: (head, isServer) => {
        const sink = open(head, isServer);
        const isWhole = head.status === 200 && head.headers['content-range'] === undefined;
        if (isWhole && range !== undefined) this.#rangeless.addForNow(key);
        return sink;
      },
      // A blob is read whole of the registry itself.
      openAtMirror: open,
    });
    return sizeBytes;
  }

  /** Whether the registry itself has the blob in this repository. */
  hasBlob(blob: OriginBlob, options: OperationOptions = {}): Promise<boolean> {
    return this.#atRegistry(blob.origin, options, (server, signal) =>
      hasBlob(server, blob, signal),
    );
  }

  /**
   * Puts a blob into a repository, unless it is there; whether it was sent. Takes as long as the
   * registry goes on taking bytes.
   */
  pushBlob(
    blob: OriginBlob,
    open: BlobOpener,
    options: UploadOptions & Pick<OperationOptions, 'signal'> = {},
  ): Promise<boolean> {
    const { signal } = options;
    return uploadBlob(
      (timeoutMs, attempt) => this.#atRegistry(blob.origin, { signal, timeoutMs }, attempt),
      blob,
      open,
      options,
    );
  }

  /**
   * Puts a manifest into a repository that has its blobs, and tags it. Gives its digest, and
   * whether the registry lists it among the referrers of its subject.
   */
  async pushManifest(
    target: { readonly origin: BlobOrigin; readonly tag?: string | undefined },
    manifest: { readonly mediaType: string; readonly bytes: Uint8Array },
    options: OperationOptions = {},
  ): Promise<{ readonly digest: Digest; readonly isListed: boolean }> {
    const { origin, tag } = target;
    if (tag !== undefined) checkTag(tag);
    const digest = digestOf(this.#hash, manifest.bytes);
    const pushed: NewManifest = { ...manifest, digest };
    const limits = { timeoutMs: PUSH_MANIFEST_MS, ...options };
    const subject = await this.#atRegistry(origin, limits, (server, signal) =>
      putManifest(server, { origin, tag }, pushed, signal),
    );
    return { digest, isListed: subject !== undefined };
  }

  /**
   * The pages of the registry's list of the manifests that refer to this one; undefined when it
   * keeps no such lists.
   */
  referrers(
    of: { readonly origin: BlobOrigin; readonly digest: Digest; readonly artifactType?: string },
    options: OperationOptions = {},
  ): Promise<readonly Uint8Array[] | undefined> {
    return this.#atRegistry(of.origin, options, (server, signal) =>
      readReferrers(server, of, signal),
    );
  }

  /** All tags of a repository. */
  tags(origin: BlobOrigin, options: OperationOptions = {}): Promise<readonly string[]> {
    return this.#atRegistry(origin, options, (server, signal) => readTags(server, origin, signal));
  }

  /** Removes a manifest from a repository. Nothing when it is not there. */
  async deleteManifest(
    origin: BlobOrigin,
    digest: Digest,
    options: OperationOptions = {},
  ): Promise<void> {
    await this.#atRegistry(origin, options, (server, signal) =>
      deleteManifest(server, { origin, digest }, signal),
    );
  }

  /**
   * Leaves the mirrors of the registry alone for 10 minutes: bytes read of it recently do not match
   * their digest, and any mirror may have sent them.
   */
  distrustMirrors(registry: string): void {
    this.#registries.distrustMirrors(registry);
  }

  /** Asks the mirrors, once each, and then the registry itself, all within one deadline. */
  #pull<S extends BodySink>(
    origin: BlobOrigin,
    options: OperationOptions,
    pull: PullRequest<S>,
  ): Promise<HttpAnswer<S>> {
    const { openAtMirror = pull.open, isFresh, key, brokeOff, ...asked } = pull;
    const request = { ...asked, scope: pullScope(origin) };
    return this.#operate(origin, options, async ({ mirrors, server }, limits) => {
      for (const mirror of isFresh === true ? [] : mirrors) {
        const answer = await mirror.ask({ ...request, open: openAtMirror }, limits);
        if (answer !== undefined) return answer;
      }
      const patient = { ...request, isPatient: true };
      const ask = (signal: AbortSignal, claim: () => void): Promise<HttpAnswer<S>> => {
        const open = (...head: Parameters<typeof request.open>): S => {
          claim();
          return request.open(...head);
        };
        return server.request({ ...patient, open }, signal);
      };
      const attempt = async (): Promise<HttpAnswer<S>> => {
        try {
          if (options.isAlone === true) return await ask(limits.signal, () => {});
          return await askPatiently(this.#clock, limits.signal, ask, isPassing);
        } catch (error) {
          if (brokeOff?.() === true && isCut(error)) throw new BrokeOff();
          throw error;
        }
      };
      const answer = await (key === undefined
        ? this.#retry(limits, attempt)
        : this.#tries.run(key, limits, attempt));
      request.check?.(answer);
      return answer;
    });
  }

  /** Runs an operation at the registry within its deadline and the bound on operations. */
  async #operate<T>(
    origin: BlobOrigin,
    options: OperationOptions,
    run: (registry: Registry, limits: OperationLimits) => Promise<T>,
  ): Promise<T> {
    checkOrigin(origin);
    const registries = this.#registries;
    const registry = registries.get(origin.registry, this.#view);
    const name = registryName(origin.registry);
    const share = registries.isConfigured(name) ? name : UNLISTED;
    return registries.operations.run(name, share, () =>
      withDeadline({ clock: this.#clock }, options, (limits) => run(registry, limits)),
    );
  }

  /** Asks the registry itself, not its mirrors, until it answers. */
  #atRegistry<T>(
    origin: BlobOrigin,
    options: OperationOptions,
    attempt: (server: RegistryServer, signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    return this.#operate(origin, options, ({ server }, limits) =>
      this.#retry(limits, () => attempt(server, limits.signal)),
    );
  }

  #retry<T>(limits: OperationLimits, attempt: () => Promise<T>): Promise<T> {
    const components = { clock: this.#clock, random: this.#random, metrics: this.#metrics };
    return withRetries(components, limits, attempt);
  }
}

/** Part of what was asked came before the connection broke: the rest is asked for at once. */
class BrokeOff extends Error {}

/** The rest is asked for next. */
function unlessBrokeOff(error: unknown): void {
  if (!(error instanceof BrokeOff)) throw error;
}

function isCut(error: unknown): boolean {
  const detail = error instanceof RegistryError ? error.detail : undefined;
  return detail?.code === 'protocol' && detail.fault === 'cut-body';
}

function nameOf({ registry, repository }: BlobOrigin): string {
  return `${registry}/${repository}`;
}

/** Undefined also when the answer breaks the protocol by leaving the size out. */
async function orNoSize(asking: Promise<number | undefined>): Promise<number | undefined> {
  try {
    return await asking;
  } catch (error) {
    const detail = error instanceof RegistryError ? error.detail : undefined;
    if (detail?.code === 'protocol' && detail.fault === 'no-size') return undefined;
    throw error;
  }
}

function blobPath(origin: BlobOrigin, digest: Digest): string {
  return `/v2/${origin.repository}/blobs/${digest}`;
}

function pullScope({ repository }: BlobOrigin): string {
  return `repository:${repository}:pull`;
}
