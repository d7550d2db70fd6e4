import { BLOCK_SIZE_BYTES, type BlobOrigin, type BlobRef } from '../../image/block.ts';
import type { Digest } from '../../image/digest.ts';
import { MANIFEST_MEDIA_TYPES } from '../../image/manifest.ts';
import { parseContentRange } from '../../registry/http/content-range.ts';
import { RegistryError } from '../../registry/errors.ts';
import type { UrlAnswer, UrlRequest } from '../../registry/url-client.ts';
import type { Clock } from '../../runtime/clock.ts';
import { within } from '../../runtime/deadline.ts';
import type { Hash } from '../../runtime/codec.ts';
import type { Counter, Metrics } from '../../runtime/metrics.ts';
import type { Random } from '../../runtime/random.ts';
import type { StatReply } from '../../tree/messages.ts';
import { toHex } from '../../util/bytes.ts';
import { CodedError, errorText } from '../../util/errors.ts';
import { ExpiringMap } from '../../util/expiring-map.ts';
import { orAbort } from '../../util/or-abort.ts';
import { SingleFlight } from '../../util/single-flight.ts';
import type { BlobAddress, RememberingGate } from './contract.ts';
import { accessMetrics } from './metrics.ts';

/** Longest wait for a registry's verdict; below the time that a read has. */
const CHECK_MS_MAX = 15_000;

/** The same when an older verdict would do. */
const RECHECK_MS_MAX = 3_000;

/** Verdicts remembered; the oldest goes, and is asked for again. */
const VERDICTS_MAX = 16_384;

/** Blobs remembered as public, and as being in a repository: as many as an agent knows at a time (transfer/core/core.ts). */
const BLOBS_MAX = 16_384;

/** A server has the blob if it knows so many bytes at a random place of its first block. */
const PROOF_BYTES = 64;
const PROOF_PLACE_BYTES_MAX = BLOCK_SIZE_BYTES;

/** Being in a repository is no secret and does not wear off: as long as anything is remembered. */
const FOR_EVER_MS = Number.POSITIVE_INFINITY;

/**
 * Why a local client may not read a blob.
 *
 * - `unauthorized` (401), `denied` (403), `not-found` (404): so says the registry; `challenges`: its WWW-Authenticate headers.
 * - `unchecked` (503): the registry could not be asked, and nothing that it said lately will do.
 * - `not-shared`: it may, but only from the server that it names: nobody in the cluster has the blob, and that server is none that the
 *   configuration names, so that what it sends is kept for nobody else.
 */
export class AccessError extends CodedError<
  | { readonly code: 'unauthorized' | 'denied'; readonly challenges: readonly string[] }
  | { readonly code: 'not-found' | 'unchecked' | 'not-shared' }
> {}

interface Components {
  /** What the cluster knows of a blob. */
  readonly stat: (digest: Digest, origin: BlobOrigin, signal: AbortSignal) => Promise<StatReply>;
  readonly urls: {
    open(request: UrlRequest, signal: AbortSignal): Promise<UrlAnswer>;
    isConfigured(host: string): boolean;
  };
  /** A configured server told the size of a blob when it was asked for somebody's right to read it. */
  readonly onSize: (digest: Digest, sizeBytes: number) => void;
  /** Bytes of a blob as this host has or gets them. */
  readonly content: {
    open(digest: Digest, address: BlobAddress, signal: AbortSignal): Promise<BlobRef>;
    read(blob: BlobRef, offset: number, length: number, signal: AbortSignal): Promise<Uint8Array>;
  };
  readonly clock: Clock;
  readonly random: Random;
  readonly hash: Hash;
  readonly metrics: Metrics;
}

/**
 * Keeps what is private to those who may read it. Blocks of a blob are the same whoever fetched them; so each request shows first that the
 * registry lets *it* read the blob. What is public is known from the roots, which ask once for all hosts. Else the registry is asked with exactly the
 * request's credentials (for a signed URL: with the URL), and the answer remembered by the hash of these credentials.
 *
 * A server that the configuration does not name is not believed by its word, since anybody may run one that has "every" blob: it must
 * show that it has the bytes.
 */
export class AccessCheck implements RememberingGate {
  readonly #parts: Components;
  readonly #acceptMs: number;
  readonly #staleMs: number;
  /** Blobs that anybody may read. */
  readonly #public: ExpiringMap<true, Digest>;
  /** Credentials that were accepted, by where and which. */
  readonly #accepted: ExpiringMap<true>;
  /** Blobs that a repository has. */
  readonly #members: ExpiringMap<true>;
  readonly #checking = new SingleFlight<string, void>();
  readonly #checks: Counter;

  constructor(
    components: Components,
    init: { readonly acceptMs: number; readonly staleMs: number },
  ) {
    this.#parts = components;
    this.#acceptMs = init.acceptMs;
    this.#staleMs = init.staleMs;
    this.#public = new ExpiringMap(components, { entriesMax: BLOBS_MAX });
    this.#accepted = new ExpiringMap(components, { entriesMax: VERDICTS_MAX });
    this.#members = new ExpiringMap(components, { entriesMax: BLOBS_MAX });
    this.#checks = accessMetrics(components.metrics).checks;
  }

  accepts(address: BlobAddress, digest: Digest, authorization: string | undefined): boolean {
    if (this.#public.get(digest) === true) return true;
    if (this.#members.get(memberKey(address, digest)) === undefined) return false;
    return this.#accepted.get(this.#credentialsKey(address, authorization)) === true;
  }

  async check(
    address: BlobAddress,
    digest: Digest,
    options: { readonly authorization?: string; readonly signal: AbortSignal },
  ): Promise<void> {
    const { authorization, signal } = options;
    if (this.accepts(address, digest, authorization)) return;
    const key = `${this.#credentialsKey(address, authorization)} ${digest}`;
    const request = { address, digest, authorization };
    await orAbort(
      this.#checking.run(key, () => this.#decideInTime(request)),
      signal,
    );
  }

  #decideInTime(request: CheckedRequest): Promise<void> {
    const old = this.#oldVerdict(request);
    const limitMs = old === undefined ? CHECK_MS_MAX : RECHECK_MS_MAX;
    const decide = (signal: AbortSignal): Promise<void> => this.#decide(request, old, signal);
    return within(this.#parts.clock, limitMs, decide, {
      reason: () => new AccessError(`the registry did not answer in ${limitMs} ms`, UNCHECKED),
    });
  }

  async #decide(
    request: CheckedRequest,
    old: 'stale' | undefined,
    signal: AbortSignal,
  ): Promise<void> {
    let result = 'accepted';
    try {
      if (await this.#isPublic(request, signal)) result = 'public';
      else await this.#ask(request, signal);
    } catch (error) {
      const refusal = error instanceof AccessError ? error : uncheckedError(error);
      result = refusal.code;
      if (refusal.code !== 'unchecked' || old === undefined) throw refusal;
      result = old;
    } finally {
      this.#checks.inc({ result });
    }
  }

  /** What was true a while ago, for when the registry is away. */
  #oldVerdict({ address, digest, authorization }: CheckedRequest): 'stale' | undefined {
    if (this.#public.getStale(digest) === true) return 'stale';
    if (this.#members.get(memberKey(address, digest)) === undefined) return undefined;
    const oldMs = this.#accepted.staleMs(this.#credentialsKey(address, authorization));
    return oldMs !== undefined && oldMs <= this.#staleMs ? 'stale' : undefined;
  }

  async #isPublic({ address, digest }: CheckedRequest, signal: AbortSignal): Promise<boolean> {
    const { registry, repository } = address;
    try {
      const { isPublic } = await this.#parts.stat(digest, { registry, repository }, signal);
      if (isPublic) this.#public.set(digest, true, this.#acceptMs);
      return isPublic;
    } catch {
      signal.throwIfAborted();
      return false;
    }
  }

  async #ask(request: CheckedRequest, signal: AbortSignal): Promise<void> {
    const { address, digest, authorization } = request;
    const sizeBytes = await this.#probe(request, signal);
    const member = memberKey(address, digest);
    if (this.#parts.urls.isConfigured(address.registry)) {
      if (sizeBytes !== undefined) this.#parts.onSize(digest, sizeBytes);
    } else if (this.#members.get(member) === undefined) {
      await this.#prove(request, signal);
    }
    this.#members.set(member, true, FOR_EVER_MS);
    this.#accepted.set(this.#credentialsKey(address, authorization), true, this.#acceptMs);
  }

  /** The size, if the server tells it. */
  async #probe(request: CheckedRequest, signal: AbortSignal): Promise<number | undefined> {
    const { address, authorization } = request;
    const headers = {
      ...(authorization !== undefined && { authorization }),
      // Without it some registries say that a manifest of a newer kind is not there.
      ...(address.url.includes('/manifests/') && { accept: MANIFEST_MEDIA_TYPES.join(', ') }),
    };
    if (address.repository !== '') {
      const head = await this.#parts.urls.open(
        { method: 'HEAD', url: address.url, headers },
        signal,
      );
      head.body.destroy();
      if (head.status === 401) throw refusalOf(head, address);
      const length = head.headers['content-length'];
      if (isSuccess(head.status)) return length === undefined ? undefined : Number(length);
      // A storage behind the registry may have signed for GET alone.
    }
    const range = { range: 'bytes=0-0' };
    const answer = await this.#parts.urls.open(
      { method: 'GET', url: address.url, headers: { ...headers, ...range } },
      signal,
    );
    answer.body.destroy();
    if (!isSuccess(answer.status)) throw refusalOf(answer, address);
    if (answer.status === 206) return parseContentRange(answer.headers['content-range'])?.total;
    const length = answer.headers['content-length'];
    return length === undefined ? undefined : Number(length);
  }

  /** Compares what the server has with what we have. */
  async #prove(
    { address, digest, authorization }: CheckedRequest,
    signal: AbortSignal,
  ): Promise<void> {
    const { content, random } = this.#parts;
    const blob = await content.open(digest, address, signal).catch((cause: unknown) => {
      signal.throwIfAborted();
      const what = `nobody in the cluster has ${digest}, and ${address.registry} is not in the configuration`;
      throw new AccessError(what, { code: 'not-shared' }, { cause });
    });
    const length = Math.min(PROOF_BYTES, blob.sizeBytes);
    if (length === 0) return;
    const offset = random.below(Math.min(PROOF_PLACE_BYTES_MAX, blob.sizeBytes) - length + 1);
    const headers = { range: `bytes=${offset}-${offset + length - 1}` };
    const answer = await this.#parts.urls.open(
      {
        method: 'GET',
        url: address.url,
        headers: authorization === undefined ? headers : { ...headers, authorization },
      },
      signal,
    );
    const skipped = answer.status === 206 ? 0 : offset;
    const theirs = await readBytes(answer, skipped + length);
    const ours = await content.read(blob, offset, length, signal);
    if (Buffer.from(ours).equals(theirs.subarray(skipped))) return;
    const what = `${address.registry} has other bytes than ${digest}`;
    throw new AccessError(what, { code: 'denied', challenges: [] });
  }

  /** Where, and with what right: of a signed URL the URL is the right. */
  #credentialsKey(address: BlobAddress, authorization: string | undefined): string {
    const { registry, repository, url } = address;
    const secret = repository === '' ? `${url}\n${authorization ?? ''}` : (authorization ?? '');
    if (secret === '') return `${registry}/${repository}`;
    return `${registry}/${repository} ${toHex(this.#parts.hash.sha256(Buffer.from(secret)))}`;
  }
}

interface CheckedRequest {
  readonly address: BlobAddress;
  readonly digest: Digest;
  readonly authorization: string | undefined;
}

const UNCHECKED = { code: 'unchecked' } as const;

function memberKey({ registry, repository }: BlobAddress, digest: Digest): string {
  return `${registry}/${repository}@${digest}`;
}

function isSuccess(status: number): boolean {
  return status === 200 || status === 206;
}

/** What an answer that is no success says about the right to read. Its text names no query. */
export function refusalOf(answer: UrlAnswer, { registry }: { registry: string }): AccessError {
  const { status } = answer;
  const what = `${registry} answered ${status} to the credentials of this request`;
  const header: string | readonly string[] = answer.headers['www-authenticate'] ?? [];
  const challenges = typeof header === 'string' ? [header] : header;
  if (status === 401) return new AccessError(what, { code: 'unauthorized', challenges });
  if (status === 403) return new AccessError(what, { code: 'denied', challenges });
  if (status === 404 || status === 410) {
    return new AccessError(`${registry} has no such blob`, { code: 'not-found' });
  }
  return new AccessError(`${registry} answered ${status}, which tells nothing`, UNCHECKED);
}

function uncheckedError(cause: unknown): AccessError {
  const text = cause instanceof RegistryError ? cause.message : errorText(cause);
  return new AccessError(`the right to read could not be checked: ${text}`, UNCHECKED, { cause });
}

/** The first bytes of a body; fewer when it is shorter. */
async function readBytes(answer: UrlAnswer, length: number): Promise<Buffer> {
  const pieces: Buffer[] = [];
  let got = 0;
  for await (const piece of answer.body) {
    pieces.push(piece as Buffer);
    got += (piece as Buffer).length;
    if (got >= length) break;
  }
  return Buffer.concat(pieces).subarray(0, length);
}
