import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http';
import type { BlobOrigin, BlobRef } from '../../image/block.ts';
import { type Digest, parseDigest } from '../../image/digest.ts';
import { checkOrigin, checkTag, registryName, registryServer } from '../../registry/reference.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { Counter, Metrics } from '../../runtime/metrics.ts';
import { isRegistryHost } from '../../registry/hosts.ts';
import type { BlobSender } from '../http/blob-sender.ts';
import { blobError } from '../client-errors.ts';
import { errorHeaders, type BlobError, type BlobErrorDetail } from '../http/blob-error.ts';
import { blobResponse, refusalOfMethod, REGISTRY_CODES } from '../http/blob-response.ts';
import { Exchanges, type Exchange } from '../http/exchange.ts';
import type { LocalRoute } from '../http/local-server.ts';
import { BLOCK_IMAGES_HEADER, wantsBlockImages, type BlockImages } from './block-images.ts';
import type { KeptManifest } from './manifest-cache.ts';
import type { Manifests } from './manifests.ts';
import { meantRegistry, type KnownRegistries } from './meant-registry.ts';
import { mirrorMetrics } from './metrics.ts';
import { parseMirrorTarget, type MirrorTarget } from './target.ts';
import type { MirrorPing } from './ping.ts';
import type { OwnAnswer } from './own-answer.ts';
import type { BlobAddress, BlobGate } from '../access/contract.ts';

/**
 * No timeout of containerd was seen: a clean error leaves after this. Above what a manifest may
 * take (manifests.ts).
 */
const DEADLINE_MS = 30_000;

interface MirrorEndpointComponents {
  readonly manifests: Pick<Manifests, 'get'>;
  readonly gate: Pick<BlobGate, 'open'>;
  readonly blockImages: Pick<BlockImages, 'find'>;
  readonly ping: Pick<MirrorPing, 'challenges'>;
  readonly ownAnswer: Pick<OwnAnswer, 'check'>;
  readonly sender: Pick<BlobSender, 'check' | 'send' | 'sendBytes'>;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

interface MirrorEndpointInit extends KnownRegistries {
  readonly deadlineMs?: number;
}

/** An answer that is an error (distribution spec, "Error Codes"). */
interface Refusal {
  readonly status: number;
  readonly code: string;
  readonly message: string;
  readonly headers?: OutgoingHttpHeaders;
}

type Wanted = MirrorTarget & { kind: 'manifest' | 'blob' };

/** A request in flight for something that is mirrored. */
interface Wish {
  readonly request: IncomingMessage;
  readonly exchange: Exchange;
  readonly wanted: Wanted;
  readonly origin: BlobOrigin;
}

/**
 * A registry mirror for containerd and others: manifests and blobs of any registry, named by
 * `?ns=`, from wherever they are.
 *
 * containerd goes to the registry itself for what is refused here, but not for what breaks: so
 * errors leave before the head, and a blob that cannot be finished is cut off short, after which
 * its client asks for the rest.
 */
export class MirrorEndpoint implements LocalRoute {
  readonly #parts: MirrorEndpointComponents;
  readonly #init: MirrorEndpointInit;
  readonly #insecure: ReadonlySet<string>;
  readonly #exchanges: Exchanges;
  readonly #requests: Counter;
  readonly #bytes: Counter;

  constructor(components: MirrorEndpointComponents, init: MirrorEndpointInit) {
    this.#parts = components;
    this.#init = init;
    this.#exchanges = new Exchanges(components, {
      deadlineMs: init.deadlineMs ?? DEADLINE_MS,
      message: 'mirror: not given',
    });
    const insecure = init.registries.filter((registry) => registry.insecure);
    this.#insecure = new Set(insecure.map(({ host }) => registryName(host)));
    const { requests, responseBytes } = mirrorMetrics(components.metrics);
    this.#requests = requests;
    this.#bytes = responseBytes;
  }

  handle(request: IncomingMessage, response: ServerResponse): boolean {
    const target = parseMirrorTarget(request.url ?? '');
    if (target.kind === 'elsewhere') return false;
    const refused = refusalOfMethod(request.method);
    if (refused !== undefined) {
      const message = 'this mirror is read-only';
      this.#refuse(response, 'other', { ...refused, code: REGISTRY_CODES[refused.code], message });
    } else if (target.kind === 'ping') {
      void this.#answerPing(request, response);
    } else if (target.kind === 'other') {
      const message = 'only manifests and blobs by sha256 are mirrored: ask the registry itself';
      this.#refuse(response, 'other', { status: 404, code: 'NAME_UNKNOWN', message });
    } else {
      void this.#answer(request, response, target);
    }
    return true;
  }

  /**
   * Never rejects. A client that shows credentials is asked for them no more: what they open is
   * checked with each request.
   */
  async #answerPing(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const known = request.headers.authorization !== undefined;
    const challenges = known ? [] : await this.#parts.ping.challenges();
    if (challenges.length > 0) {
      const headers = { 'www-authenticate': [...challenges] };
      const message = 'the registry wants credentials';
      return this.#refuse(response, 'other', {
        status: 401,
        code: 'UNAUTHORIZED',
        message,
        headers,
      });
    }
    this.#head(response, 'other', 200, ['content-type', 'application/json', 'content-length', '2']);
    response.end(request.method === 'HEAD' ? undefined : '{}');
  }

  /** Never rejects. */
  async #answer(request: IncomingMessage, response: ServerResponse, wanted: Wanted): Promise<void> {
    const origin = this.#originOf(wanted);
    if ('status' in origin) return this.#refuse(response, wanted.kind, origin);
    await this.#exchanges.run(response, {
      fields: { repository: wanted.repository },
      serve: (exchange) => {
        checkOrigin(origin);
        const wish = { request, exchange, wanted, origin };
        if (wanted.kind === 'manifest') return this.#serveManifest(wish, wanted.reference);
        return this.#serveBlob(wish, wanted.digest);
      },
      refuse: (error) => this.#refuse(response, wanted.kind, refusalFor(blobError(error), wanted)),
    });
  }

  /** The registry that the client means. */
  #originOf({ namespace, repository }: Wanted): BlobOrigin | Refusal {
    if (namespace !== undefined) {
      if (isRegistryHost(namespace)) return { registry: registryName(namespace), repository };
      const message = `?ns=${namespace.slice(0, 100)} is no HOST or HOST:PORT`;
      return { status: 400, code: 'NAME_INVALID', message };
    }
    const meant = meantRegistry(this.#init);
    if (meant !== undefined) return { registry: meant.name, repository };
    const message =
      'which registry is meant? Add ?ns=HOST[:PORT], as containerd does, or name it in ' +
      'mirror.defaultRegistry, or configure exactly one registry';
    return { status: 404, code: 'NAME_UNKNOWN', message };
  }

  /**
   * What names a digest is asked for once the client is found to be allowed to read it; a tag has
   * to be read to have one. A client that can mount block images gets one by the tag, never by the
   * digest of its original.
   */
  async #serveManifest(wish: Wish, reference: string): Promise<void> {
    const { request, exchange } = wish;
    const { response, signal } = exchange;
    const wantedDigest = parseDigest(reference);
    if (wantedDigest !== undefined) await this.#admit(wish, wantedDigest);
    const original = await this.#manifest(wish, reference);
    if (wantedDigest === undefined) await this.#admit(wish, original.digest);
    const isTag = wantedDigest === undefined;
    const manifest = isTag ? await this.#forClient(wish, original) : original;
    const { digest, mediaType, bytes } = manifest;
    if (!accepts(request.headers.accept, mediaType)) {
      return this.#refuse(response, 'manifest', unacceptable(manifest));
    }
    const start = (): void =>
      this.#head(response, 'manifest', 200, [
        'content-type',
        mediaType,
        'content-length',
        String(bytes.length),
        'docker-content-digest',
        digest,
        'etag',
        `"${digest}"`,
        ...(isTag ? ['vary', BLOCK_IMAGES_HEADER] : []),
      ]);
    if (request.method !== 'HEAD') {
      return this.#parts.sender.sendBytes(bytes, { response, signal, start });
    }
    start();
    response.end();
  }

  /** The block image of what a tag stands for, where the client takes one and may read it. */
  async #forClient(wish: Wish, original: KeptManifest): Promise<KeptManifest> {
    const { request, exchange, origin } = wish;
    const { signal } = exchange;
    if (!wantsBlockImages(request)) return original;
    const found = await this.#parts.blockImages.find(origin, original, signal);
    if (found === undefined || !accepts(request.headers.accept, found.mediaType)) return original;
    try {
      await this.#admit(wish, found.digest);
      return found;
    } catch {
      signal.throwIfAborted();
      return original;
    }
  }

  /**
   * The manifest, read with the credentials of the cluster. What these find wrong with a tag is no
   * business of a client that may not read the repository: it is told what the registry says to
   * itself, as of a tag that is there.
   */
  async #manifest(wish: Wish, reference: string): Promise<KeptManifest> {
    const { request, exchange, origin } = wish;
    const { signal } = exchange;
    const isTag = parseDigest(reference) === undefined;
    if (isTag) checkTag(reference);
    try {
      return await this.#parts.manifests.get(origin, reference, signal);
    } catch (error) {
      const { code } = blobError(error);
      if (isTag && (code === 'not-found' || code === 'bad-content')) {
        const address = this.#addressOf(wish, reference);
        await this.#parts.ownAnswer.check(address, request.headers.authorization, signal);
      }
      throw error;
    }
  }

  async #serveBlob(wish: Wish, digest: Digest): Promise<void> {
    const { request, exchange } = wish;
    const { response, signal } = exchange;
    const blob = await this.#admit(wish, digest);
    this.#parts.sender.check(digest);
    const answer = blobResponse(request, { digest, sizeBytes: blob.sizeBytes });
    if (answer.kind === 'refusal') {
      const code = REGISTRY_CODES[answer.code];
      return this.#refuse(response, 'blob', { ...answer, code });
    }
    const headers = [...answer.headers, 'docker-content-digest', digest];
    const start = (): void => this.#head(response, 'blob', answer.status, headers);
    if (answer.kind === 'head') {
      start();
      response.end();
      return;
    }
    const onBytes = (count: number): void => this.#bytes.inc({}, count);
    const { range } = answer;
    await this.#parts.sender.send({ response, digest, blob, range, signal, start, onBytes });
  }

  /** The blob or manifest, once this client is found to be allowed to read it. */
  async #admit(wish: Wish, digest: Digest): Promise<BlobRef> {
    const { authorization } = wish.request.headers;
    const { signal, abort } = wish.exchange;
    const address = this.#addressOf(wish, digest);
    const { blob, way } = await this.#parts.gate.open({ digest, address, authorization, signal });
    // What a client can mend (a token that has expired) it is told at once.
    signal.addEventListener('abort', way.watch(abort), { once: true });
    return blob;
  }

  #addressOf({ origin, wanted }: Wish, reference: string): BlobAddress {
    const scheme = this.#insecure.has(origin.registry) ? 'http' : 'https';
    const base = `${scheme}://${registryServer(origin.registry)}/v2/${origin.repository}`;
    return { ...origin, scheme, url: `${base}/${wanted.kind}s/${reference}` };
  }

  #head(response: ServerResponse, kind: string, status: number, headers: readonly string[]): void {
    this.#requests.inc({ kind, status: String(status) });
    response.writeHead(status, ['docker-distribution-api-version', 'registry/2.0', ...headers]);
  }

  #refuse(response: ServerResponse, kind: string, refusal: Refusal): void {
    const { status, code, message, headers } = refusal;
    const text = `${JSON.stringify({ errors: [{ code, message }] })}\n`;
    this.#requests.inc({ kind, status: String(status) });
    response.writeHead(status, {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(text),
      'docker-distribution-api-version': 'registry/2.0',
      ...headers,
    });
    response.end(text);
  }
}

/**
 * Whether an Accept header takes the type. containerd and skopeo list what they know, and
 * containerd anything else.
 */
function accepts(header: string | undefined, mediaType: string): boolean {
  if (header === undefined) return true;
  const ranges = header.split(',').map((range) => (range.split(';')[0] ?? '').trim());
  const group = `${mediaType.split('/')[0] ?? ''}/*`;
  return ranges.some((range) => range === '*/*' || range === group || range === mediaType);
}

/** The registry may have it in another form for such a client. */
function unacceptable({ digest, mediaType }: KeptManifest): Refusal {
  const message = `${digest} is ${mediaType}, which the Accept header does not list`;
  return { status: 404, code: 'MANIFEST_UNKNOWN', message };
}

/** All of them send containerd to the registry itself; 429 after it has tried six times. */
const STATUS: Readonly<Record<BlobErrorDetail['code'], readonly [number, string]>> = {
  'not-found': [404, 'UNKNOWN'],
  unauthorized: [401, 'UNAUTHORIZED'],
  denied: [403, 'DENIED'],
  'rate-limited': [429, 'TOOMANYREQUESTS'],
  unavailable: [503, 'UNAVAILABLE'],
  unchecked: [503, 'UNAVAILABLE'],
  timeout: [503, 'UNAVAILABLE'],
  overloaded: [503, 'UNAVAILABLE'],
  'bad-content': [502, 'DIGEST_INVALID'],
  internal: [500, 'UNKNOWN'],
};

function refusalFor({ detail, message }: BlobError, wanted: Wanted): Refusal {
  const [status, name] = STATUS[detail.code];
  const kind = wanted.kind.toUpperCase();
  const isNoManifest = detail.code === 'bad-content' && wanted.kind === 'manifest';
  const code =
    detail.code === 'not-found' ? `${kind}_UNKNOWN` : isNoManifest ? 'MANIFEST_INVALID' : name;
  return { status, code, message, headers: errorHeaders(detail) };
}
