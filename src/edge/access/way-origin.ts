import type { BlobOrigin, OpaqueName } from '../../image/block.ts';
import { digestOf, type Digest } from '../../image/digest.ts';
import { protocolError, RegistryError } from '../../registry/errors.ts';
import { isPassing } from '../../registry/http/retry.ts';
import type { UrlClient, UrlHead } from '../../registry/url-client.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Hash } from '../../runtime/codec.ts';
import type { Counter, Metrics } from '../../runtime/metrics.ts';
import {
  OriginError,
  type BlobStat,
  type NamedImage,
  type Origin,
  type OriginBlob,
  type ResolveReply,
} from '../../transfer/contracts/origin.ts';
import { backoffMs } from '../../util/backoff.ts';
import { errorText } from '../../util/errors.ts';
import { ExpiringMap } from '../../util/expiring-map.ts';
import type { Scatter } from '../../util/scatter.ts';
import { AccessError, isNo, refusalOf } from './access-error.ts';
import { accessMetrics } from './metrics.ts';
import { opaqueOf } from './url-probe.ts';
import type { Way, Ways } from './ways.ts';

/**
 * A registry that refused this host's own credentials is not asked again before each block.
 * (tunable)
 */
const REFUSED_MS = 60_000;
const REFUSED_MAX = 4096;

/** Wrong bytes of a blob are not asked for again before each read. (tunable) */
const WRONG_MS = 5_000;
const WRONG_MAX = 4096;

/**
 * When every way to a blob has failed, they are left alone for this long, for all its blocks; the
 * time doubles with each further failure, up to the maximum. (tunable)
 */
const REST_MS = 200;
const REST_MS_MAX = 8_000;
const RESTS_MAX = 4096;

/** What ways to a blob failed with, last. */
interface Rest {
  readonly error: OriginError;
  /** In a row. */
  readonly failures: number;
  /** Of the clock. */
  readonly failedMs: number;
  /** Another way is tried at once. */
  readonly ways: ReadonlySet<Way>;
}

interface Components {
  readonly inner: Origin;
  readonly urls: Pick<UrlClient, 'fill'>;
  readonly ways: Ways;
  readonly hash: Pick<Hash, 'sha256'>;
  readonly clock: Clock;
  readonly metrics: Metrics;
  /** A storage has something else now where it had the opaque blob with this key. */
  readonly onChanged: (key: Digest) => void;
  /**
   * The registry answers reads of the blob with what cannot be right, such as another size than the
   * one that is known.
   */
  readonly onUnsound: (key: Digest) => void;
}

/**
 * Reads blocks by the ways that this host has: its own credentials at a registry first, then the
 * ways of clients: a signed URL or a token of a client of this host, or a signed URL that a host
 * lent. Of a blob that is read for this host alone, the ways of its clients come first. A lent URL
 * is read with Range alone, and no redirect is followed.
 *
 * An opaque blob is read with Range and If-Match by any way, and no redirect is followed: nothing
 * but its ETag and its size says that it is still the same.
 */
export class WayOrigin implements Origin {
  readonly #parts: Components;
  readonly #refused: ExpiringMap<true, Digest>;
  /** Blobs of one block of which other bytes came. */
  readonly #wrong: ExpiringMap<
    { readonly error: OriginError; readonly isDefinite: boolean },
    Digest
  >;
  readonly #rests: ExpiringMap<Rest, Digest>;
  readonly #bytes: Counter;

  constructor(components: Components) {
    this.#parts = components;
    this.#refused = new ExpiringMap(components, { entriesMax: REFUSED_MAX });
    this.#wrong = new ExpiringMap(components, { entriesMax: WRONG_MAX });
    this.#rests = new ExpiringMap(components, { entriesMax: RESTS_MAX });
    this.#bytes = accessMetrics(components.metrics).clientOriginBytes;
  }

  /** A blob of one block is held against its digest before anybody sees it. */
  async readInto(
    blob: OriginBlob,
    offset: number,
    target: Scatter,
    signal: AbortSignal,
  ): Promise<void> {
    const digest = blob.origin.content ?? blob.digest;
    const known = this.#wrong.get(blob.digest);
    if (known?.isDefinite === true) throw known.error;
    await this.#read(blob, offset, target, signal);
    const bytes = target.only;
    if (bytes?.length !== blob.sizeBytes || blob.origin.opaque !== undefined) return;
    if (digestOf(this.#parts.hash, bytes) === digest) return;
    // A mirror may have sent them, or a line: a second time is the answer.
    this.distrust(blob.origin);
    const isDefinite = known !== undefined;
    const what = `${blob.origin.registry} gave other bytes for blob ${digest}`;
    const error = new OriginError(what, { code: isDefinite ? 'bad-content' : 'unavailable' });
    this.#wrong.set(blob.digest, { error, isDefinite }, WRONG_MS);
    throw error;
  }

  stat(digest: Digest, origin: BlobOrigin, signal: AbortSignal): Promise<BlobStat> {
    return this.#parts.inner.stat(digest, origin, signal);
  }

  named(reference: string): NamedImage {
    return this.#parts.inner.named(reference);
  }

  resolve(reference: string, signal: AbortSignal): Promise<ResolveReply> {
    return this.#parts.inner.resolve(reference, signal);
  }

  believes(origin: BlobOrigin): boolean {
    return this.#parts.inner.believes(origin);
  }

  distrust(origin: BlobOrigin): void {
    this.#parts.inner.distrust?.(origin);
  }

  async #read(
    blob: OriginBlob,
    offset: number,
    target: Scatter,
    signal: AbortSignal,
  ): Promise<void> {
    const { inner, ways } = this.#parts;
    const { digest: key, origin } = blob;
    if (origin.opaque !== undefined) return this.#readWays(blob, offset, target, signal);
    const hasWays = ways.of(key).length > 0;
    const isRefused = origin.repository === '' || this.#refused.get(key) === true;
    const isLast = isRefused || blob.isOwnWay === true;
    if (!isLast || !hasWays) {
      try {
        const asked = { ...blob, digest: origin.content ?? key };
        return await inner.readInto(asked, offset, target, signal);
      } catch (error) {
        signal.throwIfAborted();
        if (error instanceof OriginError && error.code === 'protocol') this.#parts.onUnsound(key);
        if (!hasWays) throw error;
        const isRefusal = error instanceof OriginError && error.code !== 'unavailable';
        if (isRefusal) this.#refused.set(key, true, REFUSED_MS);
      }
    }
    await this.#readWays(blob, offset, target, signal);
  }

  /**
   * Tries the ways one after the other: when a signature ends in the middle of a blob, another
   * client's is used.
   */
  async #readWays(
    blob: OriginBlob,
    offset: number,
    target: Scatter,
    signal: AbortSignal,
  ): Promise<void> {
    const all = this.#parts.ways.of(blob.digest);
    const rest = this.#rests.get(blob.digest);
    if (rest !== undefined && all.every((way) => rest.ways.has(way))) throw rest.error;
    const before = target.filled;
    const startedMs = this.#parts.clock.nowMs();
    let failure: OriginError | undefined;
    for (const way of all) {
      try {
        await this.#readWay(way, blob, { offset, target }, signal);
        this.#rests.delete(blob.digest);
        return this.#parts.ways.gave(blob.digest, way);
      } catch (cause) {
        signal.throwIfAborted();
        failure = this.#wayFailed(way, blob, cause);
        if (isChange(cause, blob.origin)) {
          this.#parts.onChanged(blob.digest);
          throw failure;
        }
      }
    }
    const error = failure ?? noWay(blob.digest);
    if (target.filled === before) this.#rest(blob.digest, error, startedMs);
    throw error;
  }

  /** Leaves the ways to a blob alone that failed for now. */
  #rest(key: Digest, error: OriginError, startedMs: number): void {
    const before = this.#rests.getStale(key);
    // One that was in flight at the time is the same failure.
    const isSame = before !== undefined && startedMs <= before.failedMs;
    if (error.code !== 'unavailable' || isSame) return;
    const failures = (before?.failures ?? 0) + 1;
    const ways = new Set(this.#parts.ways.of(key));
    const failedMs = this.#parts.clock.nowMs();
    const lifeMs = backoffMs(failures, REST_MS, REST_MS_MAX);
    this.#rests.set(key, { error, failures, failedMs, ways }, lifeMs);
  }

  /**
   * What breaks off is asked for again, from where it broke, as long as that brings more of it; an
   * answer that breaks the protocol once.
   */
  async #readWay(
    way: Way,
    blob: OriginBlob,
    run: { readonly offset: number; readonly target: Scatter },
    signal: AbortSignal,
  ): Promise<void> {
    for (let isFirst = true; ; ) {
      const before = run.target.filled;
      try {
        return await this.#fill(way, blob, run, signal);
      } catch (error) {
        const brokeOff = run.target.filled > before && isPassing(error);
        if (signal.aborted || !(brokeOff || (isFirst && isUnsound(error)))) throw error;
        if (!brokeOff) isFirst = false;
      } finally {
        this.#bytes.inc({}, run.target.filled - before);
      }
    }
  }

  async #fill(
    { url, authorization, lender }: Way,
    { digest: blob, sizeBytes, origin }: OriginBlob,
    run: { readonly offset: number; readonly target: Scatter },
    signal: AbortSignal,
  ): Promise<void> {
    const { opaque } = origin;
    const headers = {
      ...(authorization !== undefined && { authorization }),
      ...(opaque !== undefined && { 'if-match': opaque.etag }),
    };
    const followsRedirects = lender === undefined && opaque === undefined;
    const request = { method: 'GET', url, headers, followsRedirects } as const;
    const check = (head: UrlHead): void => {
      if (opaque !== undefined) checkSame(head, opaque, origin);
    };
    const asked = { ...run, blob, sizeBytes, check };
    const refused = await this.#parts.urls.fill(request, asked, signal);
    if (refused === undefined) return;
    check(refused);
    const error = refusalOf(refused, origin);
    const isFinal = error.code === 'unchecked' && isNo(error);
    throw isFinal ? protocolError('unexpected-status', error.message) : error;
  }

  #wayFailed(way: Way, blob: OriginBlob, cause: unknown): OriginError {
    const isClosed =
      cause instanceof AccessError && cause.code !== 'rate-limited' && cause.code !== 'unchecked';
    const leadsNowhere = isClosed || (way.isUntried && (isUnsound(cause) || isNo(cause)));
    if (leadsNowhere) this.#parts.ways.remove(blob.digest, way);
    if (isClosed) way.close(cause);
    const isMissing = isClosed && cause.code === 'not-found';
    const closed = isMissing ? 'not-found' : 'refused';
    const code = isClosed ? closed : isUnsound(cause) ? 'protocol' : 'unavailable';
    return new OriginError(errorText(cause), { code }, { cause });
  }
}

function noWay(digest: Digest): OriginError {
  return new OriginError(`no way to ${digest} is left`, { code: 'not-found' });
}

/** Whether the answer broke the protocol: the next one will hardly be better. */
function isUnsound(error: unknown): boolean {
  return error instanceof RegistryError && error.code === 'protocol' && !isPassing(error);
}

/**
 * Throws AccessError when the answer is not known to be of this very blob: `other-content` when it
 * is of another one.
 */
function checkSame(answer: UrlHead, opaque: OpaqueName, { registry }: BlobOrigin): void {
  const { status } = answer;
  const found = opaqueOf(answer);
  if (found?.etag === opaque.etag && found.sizeBytes === opaque.sizeBytes) return;
  if (status !== 412 && found === undefined) throw refusalOf(answer, { registry });
  const what = `${registry} has something else now where the blob was`;
  throw new AccessError(what, { code: 'other-content' });
}

function isChange(cause: unknown, { opaque }: BlobOrigin): boolean {
  return opaque !== undefined && cause instanceof AccessError && cause.code === 'other-content';
}
