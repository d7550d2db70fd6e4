import { readdirSync, readFileSync } from 'node:fs';
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import { join } from 'node:path';
import { parseByteRange } from '../../src/edge/http/byte-range.ts';
import { LoopbackServer } from '../../src/demo/loopback-server.ts';
import { parseMirrorTarget } from '../../src/edge/mirror/target.ts';
import type { Digest } from '../../src/image/digest.ts';
import { MANIFEST_MEDIA_TYPES } from '../../src/image/manifest.ts';
import { digestOf } from './registry-content.ts';
import type { TarImage } from './tar-image.ts';

/** Answers a request in the registry's place; false leaves it to the registry. */
export type Misbehaviour = (...of: Parameters<RequestListener>) => boolean;

/**
 * A registry in memory that has all that it holds in every repository, and misbehaves in those that it is told.
 *
 * Fault model: what a `Misbehaviour` does to the requests in its repository; the rest is a plain registry without credentials.
 */
export class FakeRegistry extends LoopbackServer {
  readonly misbehaviours = new Map<string, Misbehaviour>();
  /** `CLIENT METHOD PATH` of each request; agents call themselves xylem. */
  readonly requests: string[] = [];
  readonly #manifests = new Map<string, { mediaType: string; digest: Digest; bytes: Uint8Array }>();
  readonly #blobs = new Map<string, Uint8Array>();

  addBlob(bytes: Uint8Array): Digest {
    const digest = digestOf(bytes);
    this.#blobs.set(digest, bytes);
    return digest;
  }

  addManifest(tag: string, bytes: Uint8Array, mediaType: string = MANIFEST_MEDIA_TYPES[0]): Digest {
    const digest = digestOf(bytes);
    for (const name of [tag, digest]) this.#manifests.set(name, { mediaType, digest, bytes });
    return digest;
  }

  /** The image as `1`. */
  addImage({ layout, digest }: TarImage): void {
    const folder = join(layout, 'blobs', 'sha256');
    for (const name of readdirSync(folder)) this.addBlob(readFileSync(join(folder, name)));
    this.addManifest('1', readFileSync(join(folder, digest.slice('sha256:'.length))));
  }

  protected override async handle(
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    const url = request.url ?? '';
    const [client = ''] = (request.headers['user-agent'] ?? '').split('/');
    this.requests.push(`${client} ${request.method ?? ''} ${url.replace(/\?.*/, '')}`);
    const target = parseMirrorTarget(url);
    if (target.kind !== 'manifest' && target.kind !== 'blob') return void response.end('{}');
    if (this.misbehaviours.get(target.repository)?.(request, response) === true) return;
    if (target.kind === 'blob') return this.#sendBlob(target.digest, request, response);
    const found = this.#manifests.get(target.reference);
    if (found === undefined) return void response.writeHead(404).end();
    response.writeHead(200, {
      'content-type': found.mediaType,
      'content-length': found.bytes.length,
      'docker-content-digest': found.digest,
    });
    response.end(request.method === 'HEAD' ? undefined : found.bytes);
  }

  #sendBlob(digest: Digest, request: IncomingMessage, response: ServerResponse): void {
    const bytes = this.#blobs.get(digest);
    if (bytes === undefined) return void response.writeHead(404).end();
    const range = parseByteRange(request.headers.range, bytes.length);
    if (range === 'unsatisfiable') return void response.writeHead(416).end();
    const { offset, length } = range === 'whole' ? { offset: 0, length: bytes.length } : range;
    const last = offset + length - 1;
    response.writeHead(range === 'whole' ? 200 : 206, {
      'content-length': length,
      ...(range !== 'whole' && { 'content-range': `bytes ${offset}-${last}/${bytes.length}` }),
    });
    response.end(request.method === 'HEAD' ? undefined : bytes.subarray(offset, offset + length));
  }
}

/** Whether an agent asks: clients of the mirror are to find a sound registry. */
export function isAgent(request: IncomingMessage): boolean {
  return request.headers['user-agent'] === 'xylem';
}
