import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http';
import type { BlobOrigin } from '../../image/block.ts';
import { type Digest, parseDigest } from '../../image/digest.ts';
import { checkOrigin, checkTag, registryName, registryServer } from '../../registry/reference.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { Counter, Metrics } from '../../runtime/metrics.ts';
import { errorText } from '../../util/errors.ts';
import { Limiter } from '../../util/limiter.ts';
import { orAbort } from '../../util/or-abort.ts';
import { isRegistryHost } from '../../registry/hosts.ts';
import type { BlobSender } from '../http/blob-sender.ts';
import { parseByteRange } from '../http/byte-range.ts';
import type { LocalRoute } from '../http/local-server.ts';
import type { KeptManifest } from './manifest-cache.ts';
import type { Manifests } from './manifests.ts';
import { mirrorMetrics } from './metrics.ts';
import { blobError, type BlobErrorDetail } from '../http/blob-error.ts';
import { parseMirrorTarget, type MirrorTarget } from './target.ts';
import type { MirrorPing } from './ping.ts';
import type { BlobAddress, BlobGate, GrantedBlob } from '../access/contract.ts';

/** No timeout of containerd was seen: a clean error leaves after this. Above what a manifest may take (manifests.ts). */
const DEADLINE_MS = 30_000;

/** Blobs that are sent at a time; containerd fetches three layers of an image. What they hold: see bulk-reader.ts. */
const RUNNING_MAX = 64;

/** Requests in line behind them; beyond, 503. */
const WAITING_MAX = 1024;

interface MirrorEndpointComponents {
  readonly manifests: Pick<Manifests, 'get'>;
  readonly gate: Pick<BlobGate, 'open'>;
  readonly ping: Pick<MirrorPing, 'challenges'>;
  readonly sender: Pick<BlobSender, 'check' | 'send'>;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

interface MirrorEndpointInit {
  /** The registries of the configuration: the only one is meant when a client names none. */
  readonly registries: readonly { readonly host: string; readonly insecure: boolean }[];
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

/** One request under way. */
interface Exchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly signal: AbortSignal;
  readonly wanted: Wanted;
  readonly origin: BlobOrigin;
}

/**
 * A registry mirror for containerd and others: manifests and blobs of any registry, named by `?ns=`, from wherever they are.
 *
 * containerd goes to the registry itself for what is refused here, but not for what breaks: so errors leave before the head, and a
 * blob that cannot be finished is cut off short, after which its client asks for the rest.
 */
export class MirrorEndpoint implements LocalRoute {
  readonly #parts: MirrorEndpointComponents;
  readonly #init: MirrorEndpointInit;
  readonly #insecure: ReadonlySet<string>;
  readonly #limiter = new Limiter({ runningMax: RUNNING_MAX, waitingMax: WAITING_MAX });
  readonly #requests: Counter;
  readonly #bytes: Counter;

  constructor(components: MirrorEndpointComponents, init: MirrorEndpointInit) {
    this.#parts = components;
    this.#init = init;
    const insecure = init.registries.filter((registry) => registry.insecure);
    this.#insecure = new Set(insecure.map(({ host }) => registryName(host)));
    const { requests, responseBytes } = mirrorMetrics(components.metrics);
    this.#requests = requests;
    this.#bytes = responseBytes;
  }

  handle(request: IncomingMessage, response: ServerResponse): boolean {
    const target = parseMirrorTarget(request.url ?? '');
    if (target.kind === 'elsewhere') return false;
    if (request.method !== 'GET' && request.method !== 'HEAD') {
      const message = 'this mirror is read-only';
      const headers = { allow: 'GET, HEAD' };
      this.#refuse(response, 'other', { status: 405, code: 'UNSUPPORTED', message, headers });
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

  /** Never rejects. Who shows credentials is asked for them no more: what they open is checked with each request. */
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
    this.#head(response, 'other', { 'content-type': 'application/json', 'content-length': 2 });
    response.end(request.method === 'HEAD' ? undefined : '{}');
  }

  async #answer(request: IncomingMessage, response: ServerResponse, wanted: Wanted): Promise<void> {
    const abort = new AbortController();
    const deadlineMs = this.#init.deadlineMs ?? DEADLINE_MS;
    const timer = this.#parts.clock.setTimer(deadlineMs, () => {
      const late = `nothing came within ${deadlineMs} ms from any source`;
      if (!response.headersSent) abort.abort(new Error(late));
    });
    const gone = new Error('the client is gone');
    response.on('close', () => abort.abort(gone));
    try {
      const origin = this.#originOf(wanted);
      if ('status' in origin) return this.#refuse(response, wanted.kind, origin);
      checkOrigin(origin);
      const exchange = { request, response, signal: abort.signal, wanted, origin };
      await orAbort(this.#serve(exchange), abort.signal);
    } catch (error) {
      if (error === gone) return;
      const { repository } = wanted;
      this.#parts.logger.warn({ repository, error: errorText(error) }, 'mirror: not given');
      if (response.headersSent) response.destroy();
      else this.#refuse(response, wanted.kind, refusalFor(error, wanted));
    } finally {
      timer.cancel();
      abort.abort(gone);
    }
  }

  /** The registry that the client means. */
  #originOf({ namespace, repository }: Wanted): BlobOrigin | Refusal {
    if (namespace !== undefined) {
      if (isRegistryHost(namespace)) return { registry: registryName(namespace), repository };
      const message = `?ns=${namespace.slice(0, 100)} is no HOST or HOST:PORT`;
      return { status: 400, code: 'NAME_INVALID', message };
    }
    const [only, ...others] = this.#init.registries;
    if (only !== undefined && others.length === 0) {
      return { registry: registryName(only.host), repository };
    }
    const message = `which registry is meant? Add ?ns=HOST[:PORT], as containerd does, or configure exactly one registry`;
    return { status: 404, code: 'NAME_UNKNOWN', message };
  }

  async #serve(exchange: Exchange): Promise<void> {
    const { wanted, request } = exchange;
    if (wanted.kind === 'manifest') return this.#serveManifest(exchange, wanted.reference);
    if (request.method === 'HEAD') return this.#serveBlob(exchange, wanted.digest);
    const turn = this.#limiter.run(() => this.#serveBlob(exchange, wanted.digest));
    if (turn === undefined) {
      throw new Error(`${RUNNING_MAX} blobs are being sent and ${WAITING_MAX} requests wait`);
    }
    await turn;
  }

  async #serveManifest(exchange: Exchange, reference: string): Promise<void> {
    const { request, response, origin, signal } = exchange;
    if (parseDigest(reference) === undefined) checkTag(reference);
    const manifest = await this.#parts.manifests.get(origin, reference, signal);
    await this.#admit(exchange, manifest.digest);
    const { digest, mediaType, bytes } = manifest;
    if (!accepts(request.headers.accept, mediaType)) {
      return this.#refuse(response, 'manifest', unacceptable(manifest));
    }
    this.#head(response, 'manifest', {
      'content-type': mediaType,
      'content-length': bytes.length,
      'docker-content-digest': digest,
      etag: `"${digest}"`,
    });
    response.end(request.method === 'HEAD' ? undefined : bytes);
  }

  async #serveBlob(exchange: Exchange, digest: Digest): Promise<void> {
    const { request, response, signal } = exchange;
    signal.throwIfAborted();
    this.#parts.sender.check(digest);
    const { blob } = await this.#admit(exchange, digest);
    const { sizeBytes } = blob;
    const isHead = request.method === 'HEAD';
    const range = isHead ? 'whole' : parseByteRange(request.headers.range, sizeBytes);
    if (range === 'unsatisfiable') {
      const message = `the blob has ${sizeBytes} bytes`;
      const headers = { 'content-range': `bytes */${sizeBytes}` };
      return this.#refuse(response, 'blob', {
        status: 416,
        code: 'RANGE_INVALID',
        message,
        headers,
      });
    }
    const part = range === 'whole' ? { offset: 0, length: sizeBytes } : range;
    const lastByte = part.offset + part.length - 1;
    const start = (): void =>
      this.#head(response, 'blob', {
        'content-type': 'application/octet-stream',
        'content-length': part.length,
        'accept-ranges': 'bytes',
        'docker-content-digest': digest,
        etag: `"${digest}"`,
        ...(range !== 'whole' && {
          'content-range': `bytes ${part.offset}-${lastByte}/${sizeBytes}`,
        }),
      });
    if (isHead) {
      start();
      response.end();
      return;
    }
    const onBytes = (count: number): void => this.#bytes.inc({}, count);
    await this.#parts.sender.send({ response, digest, blob, range: part, signal, start, onBytes });
  }

  /** Makes sure that this client may read it, by what it shows itself. */
  #admit(exchange: Exchange, digest: Digest): Promise<GrantedBlob> {
    const { authorization } = exchange.request.headers;
    const { signal } = exchange;
    const address = this.#addressOf(exchange, digest);
    return this.#parts.gate.open({ digest, address, authorization, signal });
  }

  #addressOf({ origin, wanted }: Exchange, digest: Digest): BlobAddress {
    const scheme = this.#insecure.has(origin.registry) ? 'http' : 'https';
    const base = `${scheme}://${registryServer(origin.registry)}/v2/${origin.repository}`;
    return { ...origin, scheme, url: `${base}/${wanted.kind}s/${digest}` };
  }

  #head(response: ServerResponse, kind: string, headers: OutgoingHttpHeaders): void {
    const status = 'content-range' in headers ? 206 : 200;
    this.#requests.inc({ kind, status: String(status) });
    response.writeHead(status, { 'docker-distribution-api-version': 'registry/2.0', ...headers });
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

/** Whether an Accept header takes the type. containerd and skopeo list what they know, and containerd anything else. */
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
  'bad-content': [502, 'DIGEST_INVALID'],
};

function refusalFor(error: unknown, wanted: Wanted): Refusal {
  const told = blobError(error);
  const { code: why, challenge = '', retryAfterMs = 0 } = told.detail;
  const [status, name] = STATUS[why];
  const code = why === 'not-found' ? `${wanted.kind.toUpperCase()}_UNKNOWN` : name;
  const headers: OutgoingHttpHeaders = {};
  if (why === 'unauthorized' && challenge !== '') headers['www-authenticate'] = challenge;
  if (why === 'rate-limited') headers['retry-after'] = String(Math.ceil(retryAfterMs / 1000) || 1);
  return { status, code, message: told.message, headers };
}
