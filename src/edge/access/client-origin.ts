import type { BlobOrigin, BlobRef } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Hash } from '../../runtime/codec.ts';
import type { Counter, Metrics } from '../../runtime/metrics.ts';
import { OriginError, type Origin } from '../../transfer/contracts/origin.ts';
import type { ResolveReply, StatReply } from '../../tree/messages.ts';
import { toHex } from '../../util/bytes.ts';
import { errorText } from '../../util/errors.ts';
import { ExpiringMap } from '../../util/expiring-map.ts';
import { AccessError, refusalOf } from './access.ts';
import type { UrlClient } from '../../registry/url-client.ts';
import type { BlobAddress } from './contract.ts';
import { accessMetrics } from './metrics.ts';

/** Ways remembered, with URLs of 8 KiB at most; the oldest goes. */
const WAYS_MAX = 512;

/** Sizes remembered by digest: as many as an agent knows blobs at a time (transfer/core/core.ts). */
const SIZES_MAX = 16_384;

/** A signed URL or a token is good for minutes; what a client has not used for so long is not tried. (tunable) */
const WAY_MS = 600_000;

/** A registry that refused this host's own credentials is not asked again before each block. (tunable) */
const REFUSED_MS = 60_000;

/** The URL and the credentials of one local client's request for a blob. Secret; never leaves this host. */
export class ClientWay {
  readonly address: BlobAddress;
  readonly authorization: string | undefined;
  readonly #watchers = new Set<(error: AccessError) => void>();

  constructor(address: BlobAddress, authorization: string | undefined) {
    this.address = address;
    this.authorization = authorization;
  }

  /** Calls back when the way turns out to be closed (401, 403); returns what ends that. */
  watch(onRefused: (error: AccessError) => void): () => void {
    this.#watchers.add(onRefused);
    return () => void this.#watchers.delete(onRefused);
  }

  refuse(error: AccessError): void {
    for (const onRefused of [...this.#watchers]) onRefused(error);
  }
}

interface Components {
  readonly inner: Origin;
  readonly urls: Pick<UrlClient, 'open' | 'fill' | 'isConfigured'>;
  readonly hash: Hash;
  readonly clock: Clock;
  readonly metrics: Metrics;
}

/**
 * The registries with this host's own credentials and, where these do not reach a blob, the way by which a local client reads it: a
 * signed URL, or a token. Such ways are taken on this host alone, to servers that the configuration names, and counted apart.
 */
export class ClientOrigin implements Origin {
  readonly #parts: Components;
  readonly #isRoot: boolean;
  readonly #ways: ExpiringMap<ClientWay, Digest>;
  readonly #refused: ExpiringMap<true, Digest>;
  readonly #sizes: ExpiringMap<number, Digest>;
  readonly #bytes: Counter;

  /** `isRoot`: others ask this host for blobs, so that what it knows of one by its digest is of use to them. */
  constructor(components: Components, init: { readonly isRoot: boolean }) {
    this.#parts = components;
    this.#isRoot = init.isRoot;
    this.#ways = new ExpiringMap(components, { entriesMax: WAYS_MAX });
    this.#refused = new ExpiringMap(components, { entriesMax: WAYS_MAX });
    this.#sizes = new ExpiringMap(components, { entriesMax: SIZES_MAX });
    this.#bytes = accessMetrics(components.metrics).clientOriginBytes;
  }

  /** Notes how a client reads the blob, for a request that was found to be allowed; the latest one counts. */
  note(
    digest: Digest,
    address: BlobAddress,
    authorization: string | undefined,
  ): ClientWay | undefined {
    if (!this.#parts.urls.isConfigured(address.registry)) return undefined;
    const known = this.#ways.get(digest);
    const isSame = known?.address.url === address.url && known.authorization === authorization;
    const way = isSame ? known : new ClientWay(address, authorization);
    this.#ways.set(digest, way, WAY_MS);
    return way;
  }

  /** A blob of one block is held against its digest before anybody sees it. */
  async readInto(
    blob: BlobRef & { readonly origin: BlobOrigin },
    offset: number,
    target: Uint8Array,
    signal: AbortSignal,
  ): Promise<void> {
    await this.#read(blob, offset, target, signal);
    if (target.length !== blob.sizeBytes) return;
    if (`sha256:${toHex(this.#parts.hash.sha256(target))}` === blob.digest) return;
    const what = `${blob.origin.registry} gave other bytes for blob ${blob.digest}`;
    throw new OriginError(what, { code: 'unavailable' });
  }

  async #read(
    blob: BlobRef & { readonly origin: BlobOrigin },
    offset: number,
    target: Uint8Array,
    signal: AbortSignal,
  ): Promise<void> {
    const { digest, origin } = blob;
    const isInVain = origin.repository === '' || this.#refused.get(digest) === true;
    if (!isInVain || this.#ways.get(digest) === undefined) {
      try {
        return await this.#parts.inner.readInto(blob, offset, target, signal);
      } catch (error) {
        signal.throwIfAborted();
        if (this.#ways.get(digest) === undefined) throw error;
        const isRefusal = error instanceof OriginError && error.code === 'refused';
        if (isRefusal) this.#refused.set(digest, true, REFUSED_MS);
      }
    }
    await this.#readWay(blob, offset, target, signal);
  }

  resolve(reference: string, signal: AbortSignal): Promise<ResolveReply> {
    return this.#parts.inner.resolve(reference, signal);
  }

  /** Takes in the size that a configured server told of a blob. */
  learnSize(digest: Digest, sizeBytes: number): void {
    this.#sizes.set(digest, sizeBytes, Number.POSITIVE_INFINITY);
  }

  sizeOf(digest: Digest): number | undefined {
    return this.#sizes.get(digest);
  }

  /** On a root, what is known by its digest is known also where no repository is named, or the registry does not tell this host. */
  async stat(digest: Digest, origin: BlobOrigin, signal: AbortSignal): Promise<StatReply> {
    const isChosen = this.isConfigured(origin.registry);
    try {
      const reply = await this.#parts.inner.stat(digest, origin, signal);
      if (isChosen) this.learnSize(digest, reply.sizeBytes);
      return reply;
    } catch (error) {
      const sizeBytes = this.sizeOf(digest);
      if (!this.#isRoot || sizeBytes === undefined || signal.aborted) throw error;
      return { sizeBytes, isPublic: false };
    }
  }

  isConfigured(registry: string): boolean {
    return this.#parts.inner.isConfigured(registry);
  }

  async #readWay(
    blob: BlobRef,
    offset: number,
    target: Uint8Array,
    signal: AbortSignal,
  ): Promise<void> {
    const way = this.#ways.get(blob.digest);
    if (way === undefined) {
      throw new OriginError(`no way to ${blob.digest} is left`, { code: 'not-found' });
    }
    const { address, authorization } = way;
    const range = `bytes=${offset}-${offset + target.length - 1}`;
    const headers = authorization === undefined ? { range } : { range, authorization };
    try {
      const answer = await this.#parts.urls.open(
        { method: 'GET', url: address.url, headers },
        signal,
      );
      if (answer.status !== 200 && answer.status !== 206) {
        answer.body.destroy();
        throw refusalOf(answer, address);
      }
      const what = `${range} of ${blob.digest} at ${address.registry}`;
      await this.#parts.urls.fill(answer, { offset, target, sizeBytes: blob.sizeBytes }, what);
      this.#bytes.inc({}, target.length);
    } catch (cause) {
      signal.throwIfAborted();
      const isRefusal =
        cause instanceof AccessError && (cause.code === 'unauthorized' || cause.code === 'denied');
      if (isRefusal) {
        if (this.#ways.get(blob.digest) === way) this.#ways.delete(blob.digest);
        way.refuse(cause);
      }
      throw new OriginError(
        errorText(cause),
        { code: isRefusal ? 'refused' : 'unavailable' },
        { cause },
      );
    }
  }
}
