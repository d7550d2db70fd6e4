import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join } from 'node:path';
import { LoopbackServer } from '../../src/demo/loopback-server.ts';
import { parseByteRange } from '../../src/edge/http/byte-range.ts';
import { digestHex, type Digest } from '../../src/image/digest.ts';
import { MANIFEST_MEDIA_TYPES } from '../../src/image/manifest.ts';
import type { Clock } from '../../src/runtime/clock.ts';
import { digestOf } from './registry-content.ts';
import type { TarImage } from './tar-image.ts';

/** What gzip begins with: a body labelled as a page that begins with `<` is taken for one. */
const GZIP_MAGIC = Buffer.from([0x1f, 0x8b, 0x08]);

/** A blob that a fake registry serves. */
export interface FakeBlob {
  readonly bytes: Buffer;
  readonly digest: Digest;
  readonly hex: string;
}

/** One request to a fake registry. */
export interface Asked {
  readonly method: string;
  readonly url: string;
  /** The client's name without its version; agents use the name xylem. */
  readonly client: string;
  readonly range: string | undefined;
  readonly authorization: string | undefined;
  /** When it came, of `performance.now()`. */
  readonly atMs: number;
}

/**
 * Answers a request in place of the registry; false leaves it to the registry. `blob` is
 * undefined for a URL without a known digest.
 */
export type Behaviour = (
  request: IncomingMessage,
  response: ServerResponse,
  blob: FakeBlob | undefined,
) => boolean | Promise<boolean>;

/** A registry without this sends as fast as its clients read. */
export interface Throttle {
  readonly clock: Clock;
  /** For all connections together. */
  readonly bytesPerSecond: number;
}

/** Bytes between two checks of the allowance. */
const PIECE_BYTES = 64 * 1024;

/** The allowance saves up at most this much time, so that no burst follows a pause. */
const SAVED_MS_MAX = 20;

/**
 * A registry, or the storage behind one, in memory. It has all its blobs and manifests in every
 * repository, and finds blobs by the digest in either shape of URL.
 *
 * Fault model: a `Behaviour` decides about the requests below its path. The rest is a sound
 * registry without credentials, at most as fast as its `throttle`.
 *
 * Life: constructed -> `start()` (listens on a free port) -> `stop()`.
 */
export class FakeRegistry extends LoopbackServer {
  /** By the start of the path: of one repository (`/v2/NAME/`), or of everything (''). */
  readonly behaviours = new Map<string, Behaviour>();
  readonly asked: Asked[] = [];
  throttle: Throttle | undefined;
  /** Bytes of blobs and manifests sent so far. */
  sentBytes = 0;
  readonly #manifests = new Map<string, { mediaType: string; digest: Digest; bytes: Buffer }>();
  readonly #blobs = new Map<string, FakeBlob>();
  /** Blobs by paths without their digest. */
  readonly #named = new Map<string, FakeBlob>();
  /** Time at which the allowance has paid for all bytes sent so far. */
  #paidMs = 0;

  constructor(init: { readonly throttle?: Throttle } = {}) {
    super();
    this.throttle = init.throttle;
  }

  /** Adds a blob of random bytes that begins, and is as incompressible, as a compressed layer. */
  add(sizeBytes: number): FakeBlob {
    const bytes = randomBytes(sizeBytes);
    GZIP_MAGIC.copy(bytes);
    return this.addBlob(bytes);
  }

  addBlob(bytes: Buffer): FakeBlob {
    const digest = digestOf(bytes);
    return this.share({ bytes, digest, hex: digestHex(digest) });
  }

  /** Serves a blob of another registry, or wrong bytes under its digest. */
  share(blob: FakeBlob): FakeBlob {
    this.#blobs.set(blob.hex, blob);
    return blob;
  }

  /** Serves a blob at a path that does not tell its digest, with a strong ETag. */
  name(path: string, blob: FakeBlob): string {
    this.#named.set(path, blob);
    return `http://${this.address}${path}`;
  }

  /** Forgets a blob, and the requests so far. */
  forget({ hex }: FakeBlob): void {
    this.#blobs.delete(hex);
    this.asked.length = 0;
  }

  addManifest(tag: string, bytes: Buffer, mediaType: string = MANIFEST_MEDIA_TYPES[0]): Digest {
    const digest = digestOf(bytes);
    for (const name of [tag, digest]) this.#manifests.set(name, { mediaType, digest, bytes });
    return digest;
  }

  /** Adds the image as tag `1`. */
  addImage({ layout, digest }: TarImage): void {
    const folder = join(layout, 'blobs', 'sha256');
    for (const name of readdirSync(folder)) this.addBlob(readFileSync(join(folder, name)));
    this.addManifest('1', readFileSync(join(folder, digestHex(digest))));
  }

  /** URL in the shape of the distribution API. */
  url(repository: string, blob: FakeBlob): string {
    return `http://${this.address}/v2/${repository}/blobs/${blob.digest}`;
  }

  /** URL in the shape of the storage behind a registry. */
  signedUrl(blob: FakeBlob, signature: string): string {
    const path = `docker/blobs/sha256/${blob.hex.slice(0, 2)}/${blob.hex}/data`;
    return `http://${this.address}/${path}?${signature}`;
  }

  /** Answers a request that came to another server, such as one with TLS. */
  answer(request: IncomingMessage, response: ServerResponse): void {
    this.handle(request, response).catch(() => response.destroy());
  }

  askedFor(part: string): readonly Asked[] {
    return this.asked.filter(({ url }) => url.includes(part));
  }

  protected override async handle(
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    const { method = '', url = '', headers } = request;
    const [client = ''] = (headers['user-agent'] ?? '').split('/');
    const { range, authorization } = headers;
    this.asked.push({ method, url, client, range, authorization, atMs: performance.now() });
    const named = this.#named.get(url.split('?')[0] ?? '');
    if (named !== undefined) response.setHeader('etag', `"${named.hex.slice(0, 32)}"`);
    const blob =
      named ?? this.#blobs.get(/sha256[:/](?:[0-9a-f]{2}\/)?([0-9a-f]{64})/.exec(url)?.[1] ?? '');
    for (const [prefix, behaviour] of this.behaviours) {
      if (url.startsWith(prefix) && (await behaviour(request, response, blob))) return;
    }
    const reference = /^\/v2\/.+\/manifests\/([^/?]+)/.exec(url)?.[1];
    const manifest = reference === undefined ? undefined : this.#manifests.get(reference);
    if (manifest !== undefined) this.#sendManifest(request, response, manifest);
    else if (blob !== undefined) await this.#sendBlob(request, response, blob.bytes);
    else if (/^\/v2\/?(\?|$)/.test(url)) response.end('{}');
    else response.writeHead(404).end();
  }

  #sendManifest(
    request: IncomingMessage,
    response: ServerResponse,
    manifest: { mediaType: string; digest: Digest; bytes: Buffer },
  ): void {
    response.writeHead(200, {
      'content-type': manifest.mediaType,
      'content-length': manifest.bytes.length,
      'docker-content-digest': manifest.digest,
    });
    this.sentBytes += manifest.bytes.length;
    response.end(request.method === 'HEAD' ? undefined : manifest.bytes);
  }

  async #sendBlob(
    request: IncomingMessage,
    response: ServerResponse,
    bytes: Buffer,
  ): Promise<void> {
    const body = writeSoundHead(request, response, bytes);
    for (let at = 0; at < body.length && !response.destroyed; at += PIECE_BYTES) {
      const piece = body.subarray(at, at + PIECE_BYTES);
      await this.#pay(piece.length);
      if (!response.write(piece)) await takenOrGone(response);
    }
    response.end();
  }

  async #pay(lengthBytes: number): Promise<void> {
    this.sentBytes += lengthBytes;
    if (this.throttle === undefined) return;
    const { clock, bytesPerSecond } = this.throttle;
    const nowMs = clock.nowMs();
    this.#paidMs =
      Math.max(this.#paidMs, nowMs - SAVED_MS_MAX) + (lengthBytes * 1000) / bytesPerSecond;
    if (this.#paidMs > nowMs) await clock.sleep(this.#paidMs - nowMs);
  }
}

/** Waits until a client has taken what was written, or is gone. */
export async function takenOrGone(response: ServerResponse): Promise<void> {
  const either = new AbortController();
  const { signal } = either;
  await Promise.race([once(response, 'drain', { signal }), once(response, 'close', { signal })]);
  either.abort();
}

/** Answers a request for a blob as a registry should. */
export function answerSoundly(
  request: IncomingMessage,
  response: ServerResponse,
  bytes: Buffer,
): void {
  response.end(writeSoundHead(request, response, bytes));
}

/** Writes the head of a sound answer, and returns the bytes that belong after it. */
function writeSoundHead(
  request: IncomingMessage,
  response: ServerResponse,
  bytes: Buffer,
): Uint8Array {
  const range = parseByteRange(request.headers.range, bytes.length);
  if (range === 'unsatisfiable') {
    response.writeHead(416, { 'content-range': `bytes */${bytes.length}` });
    return new Uint8Array();
  }
  const { offset, length } = range === 'whole' ? { offset: 0, length: bytes.length } : range;
  const last = offset + length - 1;
  response.writeHead(range === 'whole' ? 200 : 206, {
    'content-length': length,
    ...(range !== 'whole' && { 'content-range': `bytes ${offset}-${last}/${bytes.length}` }),
  });
  return request.method === 'HEAD' ? new Uint8Array() : bytes.subarray(offset, offset + length);
}

/** Whether the client is an agent: clients of the mirror must find a sound registry. */
export function isAgent(request: IncomingMessage): boolean {
  return request.headers['user-agent'] === 'xylem';
}
