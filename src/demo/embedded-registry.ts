import { createReadStream } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { digestHex, parseDigest, type Digest } from '../image/digest.ts';
import { MANIFEST_MEDIA_TYPES } from '../image/manifest.ts';
import { blobResponse, REGISTRY_CODES } from '../edge/http/blob-response.ts';
import { LoopbackServer } from './loopback-server.ts';

/** Bytes and answers of blobs that the registry has sent since its start. */
export interface RegistryStats {
  readonly blobBytes: number;
  readonly blobRequests: number;
}

const TAG_ANNOTATION = 'org.opencontainers.image.ref.name';

/**
 * Serves the images of an OCI layout folder read-only over plain HTTP on loopback, as one
 * repository. Counts the blob bytes that it sends, for the demo and for tests.
 *
 * Life: constructed -> `start()` (listens on a free port) -> `stop()`.
 */
export class EmbeddedRegistry extends LoopbackServer {
  readonly #layoutDir: string;
  readonly #repository: string;
  #blobBytes = 0;
  #blobRequests = 0;

  constructor(init: { layoutDir: string; repository: string }) {
    super();
    this.#layoutDir = init.layoutDir;
    this.#repository = init.repository;
  }

  stats(): RegistryStats {
    return { blobBytes: this.#blobBytes, blobRequests: this.#blobRequests };
  }

  protected override async handle(
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    const path = (request.url ?? '').split('?')[0] ?? '';
    const match = /^\/v2\/(.+)\/(manifests|blobs)\/([^/]+)$/.exec(path);
    if (path === '/v2/') {
      response.end('{}');
    } else if (request.method !== 'GET' && request.method !== 'HEAD') {
      refuse(response, 405, 'UNSUPPORTED');
    } else if (match === null || match[1] !== this.#repository) {
      refuse(response, 404, 'NAME_UNKNOWN');
    } else if (match[2] === 'manifests') {
      await this.#sendManifest(match[3] ?? '', request, response);
    } else {
      await this.#sendBlob(match[3] ?? '', request, response);
    }
  }

  async #sendManifest(
    reference: string,
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    const digest = parseDigest(reference) ?? (await this.#digestOfTag(reference));
    const body = digest === undefined ? undefined : await this.#read(digest);
    if (digest === undefined || body === undefined) {
      refuse(response, 404, 'MANIFEST_UNKNOWN');
      return;
    }
    const { mediaType } = JSON.parse(body.toString()) as { mediaType?: string };
    response.writeHead(200, {
      'content-type': mediaType ?? MANIFEST_MEDIA_TYPES[0],
      'content-length': body.length,
      'docker-content-digest': digest,
    });
    response.end(request.method === 'HEAD' ? undefined : body);
  }

  async #digestOfTag(tag: string): Promise<Digest | undefined> {
    const index = JSON.parse(await readFile(join(this.#layoutDir, 'index.json'), 'utf8')) as {
      manifests: { digest: string; annotations?: Record<string, string> }[];
    };
    const found = index.manifests.find((entry) => entry.annotations?.[TAG_ANNOTATION] === tag);
    return found === undefined ? undefined : parseDigest(found.digest);
  }

  async #read(digest: Digest): Promise<Buffer | undefined> {
    try {
      return await readFile(this.#pathOf(digest));
    } catch {
      return undefined;
    }
  }

  async #sendBlob(
    reference: string,
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    const digest = parseDigest(reference);
    const size = digest === undefined ? undefined : await this.#sizeOf(digest);
    if (digest === undefined || size === undefined) {
      refuse(response, 404, 'BLOB_UNKNOWN');
      return;
    }
    const answer = blobResponse(request, { digest, sizeBytes: size });
    if (answer.kind === 'refusal') {
      for (const [name, value] of Object.entries(answer.headers)) {
        if (value !== undefined) response.setHeader(name, value);
      }
      refuse(response, answer.status, REGISTRY_CODES[answer.code]);
      return;
    }
    response.writeHead(answer.status, [...answer.headers, 'docker-content-digest', digest]);
    if (answer.kind === 'head' || answer.range.length === 0) {
      response.end();
      return;
    }
    this.#blobRequests++;
    const { offset, length } = answer.range;
    const file = createReadStream(this.#pathOf(digest), {
      start: offset,
      end: offset + length - 1,
    });
    file.on('data', (piece) => {
      this.#blobBytes += piece.length;
    });
    await pipeline(file, response);
  }

  async #sizeOf(digest: Digest): Promise<number | undefined> {
    try {
      return (await stat(this.#pathOf(digest))).size;
    } catch {
      return undefined;
    }
  }

  #pathOf(digest: Digest): string {
    return join(this.#layoutDir, 'blobs', 'sha256', digestHex(digest));
  }
}

function refuse(response: ServerResponse, status: number, code: string): void {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify({ errors: [{ code, message: code.toLowerCase() }] }));
}
