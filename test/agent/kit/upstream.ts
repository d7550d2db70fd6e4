import { createHash, randomBytes } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { parseByteRange } from '../../../src/edge/http/byte-range.ts';
import { LoopbackServer } from '../../../src/demo/loopback-server.ts';

/** A blob that an upstream serves. */
export interface UpstreamBlob {
  readonly bytes: Buffer;
  readonly digest: string;
  readonly hex: string;
}

/** One request as it came. */
export interface Asked {
  readonly method: string;
  readonly url: string;
  readonly range: string | undefined;
  readonly authorization: string | undefined;
}

/** Answers in place of the upstream's sound answer; false to leave it to that. `blob` is undefined for URLs without a known digest. */
export type Behaviour = (
  request: IncomingMessage,
  response: ServerResponse,
  blob: UpstreamBlob | undefined,
) => boolean | Promise<boolean>;

/**
 * A registry, or the storage behind one, on loopback: sound, until a test gives it a behaviour. Knows blobs by the digest in either
 * shape of URL, in every repository.
 */
export class Upstream extends LoopbackServer {
  readonly #blobs = new Map<string, UpstreamBlob>();
  /** Of one repository (`/v2/NAME/`), so that tests do not disturb each other; or of everything (''). */
  readonly behaviours = new Map<string, Behaviour>();
  readonly asked: Asked[] = [];

  constructor(init: { readonly port?: number } = {}) {
    super(init.port);
  }

  add(sizeBytes: number): UpstreamBlob {
    const bytes = randomBytes(sizeBytes);
    const hex = createHash('sha256').update(bytes).digest('hex');
    const blob = { bytes, hex, digest: `sha256:${hex}` };
    this.#blobs.set(hex, blob);
    return blob;
  }

  share(blob: UpstreamBlob): void {
    this.#blobs.set(blob.hex, blob);
  }

  /** URL in the shape of the distribution API. */
  url(repository: string, blob: UpstreamBlob): string {
    return `http://${this.address}/v2/${repository}/blobs/${blob.digest}`;
  }

  /** URL in the shape of the storage behind a registry. */
  signedUrl(blob: UpstreamBlob, signature: string): string {
    return `http://${this.address}/docker/blobs/sha256/${blob.hex.slice(0, 2)}/${blob.hex}/data?${signature}`;
  }

  askedFor(part: string): readonly Asked[] {
    return this.asked.filter(({ url }) => url.includes(part));
  }

  protected override async handle(
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    const url = request.url ?? '';
    const { range, authorization } = request.headers;
    this.asked.push({ method: request.method ?? '', url, range, authorization });
    const hex = /sha256[:/](?:[0-9a-f]{2}\/)?([0-9a-f]{64})/.exec(url)?.[1] ?? '';
    const blob = this.#blobs.get(hex);
    for (const [prefix, behaviour] of this.behaviours) {
      if (url.startsWith(prefix) && (await behaviour(request, response, blob))) return;
    }
    if (blob === undefined) response.writeHead(404).end();
    else answerSoundly(request, response, blob.bytes);
  }
}

/** As a registry should. */
export function answerSoundly(
  request: IncomingMessage,
  response: ServerResponse,
  bytes: Buffer,
): void {
  const range = parseByteRange(request.headers.range, bytes.length);
  if (range === 'unsatisfiable') {
    response.writeHead(416, { 'content-range': `bytes */${bytes.length}` }).end();
    return;
  }
  const { offset, length } = range === 'whole' ? { offset: 0, length: bytes.length } : range;
  response.writeHead(range === 'whole' ? 200 : 206, {
    'content-length': length,
    ...(range !== 'whole' && {
      'content-range': `bytes ${offset}-${offset + length - 1}/${bytes.length}`,
    }),
  });
  response.end(request.method === 'HEAD' ? '' : bytes.subarray(offset, offset + length));
}
