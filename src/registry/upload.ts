import type { BlobOrigin, BlobRef } from '../image/block.ts';
import { protocolError, RegistryError } from './errors.ts';
import { RANGE_NOT_SATISFIABLE } from './http/blob-range.ts';
import { readLocation } from './http/location.ts';
import type { HttpHead } from './http/message.ts';
import { hasBlob, ignore, pushScope, textOf } from './push.ts';
import type { RegistryServer } from './server.ts';

/** The bytes of a blob from the start; called again for another attempt. */
export type BlobOpener = () => AsyncIterable<Uint8Array>;

/** Runs one step of an upload within its time, with retries. */
export type UploadStep = <T>(
  timeoutMs: number,
  attempt: (server: RegistryServer, signal: AbortSignal) => Promise<T>,
) => Promise<T>;

/** How a blob is put into a repository. */
export interface UploadOptions {
  /** A repository of the same registry that has the blob. */
  readonly mountFrom?: string | undefined;
  /** Called with the bytes that the registry has. */
  readonly onProgress?: ((sentBytes: number) => void) | undefined;
}

type OriginBlob = BlobRef & { readonly origin: BlobOrigin };

/**
 * Sent at a time, and in memory until the registry has it. Storages take parts of 5 MiB or more.
 * (tunable)
 */
const CHUNK_BYTES = 16 * 1024 * 1024;

/** A registry that wants larger chunks gets the blob in one piece. */
const CHUNK_BYTES_MAX = 128 * 1024 * 1024;

/** A blob is begun anew this often when the registry has forgotten its upload. (tunable) */
const LOSSES_MAX = 5;

/** Times in a row that a registry may name another place in the blob than that of the chunk. */
const CORRECTIONS_MAX = 3;

/** For a step, besides the time of its bytes. (tunable) */
const STEP_MS = 10 * 60_000;

/** Slowest upload that is waited for. (tunable) */
const BYTES_PER_SECOND_MIN = 32 * 1024;

/** A registry that stores a chunk, or checks and moves a whole blob, is silent. (tunable) */
const CHUNK_SILENCE_MS_MAX = 60_000;
const BLOB_SILENCE_MS_MAX = 5 * 60_000;

const NOT_IMPLEMENTED = 501;

/** The registry has forgotten the upload. */
class UploadLostError extends Error {
  override name = 'UploadLostError';
}

/**
 * Puts a blob into a repository, unless it is there or can be mounted from another one; whether it
 * was sent.
 *
 * A large blob goes in chunks (distribution spec, "Pushing a blob in chunks"). After a break the
 * registry says what it has, and the upload goes on from there; when it has forgotten the upload,
 * the blob is sent anew. A registry that refuses chunks gets the blob in one piece.
 */
export async function uploadBlob(
  step: UploadStep,
  blob: OriginBlob,
  open: BlobOpener,
  options: UploadOptions = {},
): Promise<boolean> {
  if (await step(STEP_MS, (server, signal) => hasBlob(server, blob, signal))) return false;
  let isChunked = blob.sizeBytes > CHUNK_BYTES;
  for (let losses = 0; ; ) {
    const upload = new Upload(step, blob, options);
    try {
      if (!(await upload.begin())) return false;
      isChunked &&= upload.chunkBytes <= CHUNK_BYTES_MAX;
      if (isChunked) await upload.sendChunks(open());
      else await upload.sendWhole(open);
      return true;
    } catch (error) {
      if (error instanceof UploadLostError && losses++ < LOSSES_MAX) continue;
      if (error instanceof UploadLostError) throw lost(blob);
      if (!isChunked || !upload.isRefused(error)) throw error;
      isChunked = false;
    }
  }
}

/** Bytes of a blob that are sent together. */
interface Chunk {
  readonly offset: number;
  readonly length: number;
  readonly pieces: readonly Uint8Array[];
}

/**
 * One upload of a blob. Life: `begin()` -> `sendChunks()` or `sendWhole()`; an upload that is left
 * ends at the registry by itself.
 */
class Upload {
  readonly #step: UploadStep;
  readonly #blob: OriginBlob;
  readonly #options: UploadOptions;
  #url: URL | undefined;
  /** Bytes that the registry has. */
  #sentBytes = 0;
  /** A request broke: the registry may have more. */
  #isUnsure = false;
  chunkBytes = CHUNK_BYTES;

  constructor(step: UploadStep, blob: OriginBlob, options: UploadOptions) {
    this.#step = step;
    this.#blob = blob;
    this.#options = options;
  }

  /** Whether the blob is to be sent: false when it was mounted. */
  async begin(): Promise<boolean> {
    const { mountFrom } = this.#options;
    if (mountFrom !== undefined) {
      try {
        return await this.#step(STEP_MS, (...at) => this.#begin(mountFrom, ...at));
      } catch (error) {
        // A client that may write here may still not read there.
        if (!(error instanceof RegistryError) || !isFinal(error)) throw error;
      }
    }
    return this.#step(STEP_MS, (...at) => this.#begin(undefined, ...at));
  }

  /** Whether the error says that the registry takes no chunks. */
  isRefused(error: unknown): boolean {
    return this.#sentBytes === 0 && error instanceof RegistryError && isFinal(error);
  }

  async sendChunks(pieces: AsyncIterable<Uint8Array>): Promise<void> {
    for await (const chunk of chunksOf(pieces, this.chunkBytes)) {
      await this.#step(timeOf(chunk.length), (...at) => this.#sendChunk(chunk, ...at));
      this.#options.onProgress?.(this.#sentBytes);
    }
    const { digest } = this.#blob;
    let isFirst = true;
    await this.#step(STEP_MS, async (server, signal) => {
      // The answer to the attempt before may have been lost.
      if (!isFirst && (await hasBlob(server, this.#blob, signal))) return;
      isFirst = false;
      const url = new URL(this.#place);
      url.searchParams.set('digest', digest);
      try {
        await this.#request(server, { method: 'PUT', url, length: 0 }, signal);
      } catch (error) {
        if (!isMissing(error)) throw error;
        if (!(await hasBlob(server, this.#blob, signal))) throw new UploadLostError();
      }
    });
  }

  /** Each attempt begins anew. */
  async sendWhole(open: BlobOpener): Promise<void> {
    const { digest, sizeBytes } = this.#blob;
    const { onProgress } = this.#options;
    let isBegun = true;
    await this.#step(timeOf(sizeBytes), async (server, signal) => {
      if (!isBegun && (await hasBlob(server, this.#blob, signal))) return;
      if (!isBegun) await this.#begin(undefined, server, signal);
      isBegun = false;
      const url = new URL(this.#place);
      url.searchParams.set('digest', digest);
      const source = new Source(open, onProgress);
      const body = (): AsyncIterable<Uint8Array> => source.pieces();
      try {
        await this.#request(server, { method: 'PUT', url, length: sizeBytes, body }, signal);
      } catch (error) {
        throw source.failure ?? error;
      }
    });
  }

  get #place(): URL {
    if (this.#url === undefined) throw new UploadLostError();
    return this.#url;
  }

  async #begin(
    from: string | undefined,
    server: RegistryServer,
    signal: AbortSignal,
  ): Promise<boolean> {
    const { origin, digest } = this.#blob;
    const url = new URL(`/v2/${origin.repository}/blobs/uploads/`, server.base);
    const own = pushScope(origin);
    if (from !== undefined) {
      url.searchParams.set('mount', digest);
      url.searchParams.set('from', from);
    }
    const scope = from === undefined ? own : `${own} repository:${from}:pull`;
    const empty = (): Uint8Array => new Uint8Array(0);
    const { head } = await server.request(
      { method: 'POST', path: url.href, headers: {}, scope, body: empty, open: ignore },
      signal,
    );
    if (head.status === 201) return false;
    this.#url = readLocation(head, server.base);
    const least = Number(textOf(head, 'oci-chunk-min-length') ?? 0);
    if (Number.isSafeInteger(least)) this.chunkBytes = Math.max(CHUNK_BYTES, least);
    return true;
  }

  async #sendChunk(chunk: Chunk, server: RegistryServer, signal: AbortSignal): Promise<void> {
    const end = chunk.offset + chunk.length;
    for (let corrections = 0; ; ) {
      if (this.#isUnsure) await this.#askOffset(server, signal);
      const first = this.#sentBytes;
      // It has lost what it had confirmed, or has what nobody sent.
      if (first < chunk.offset || first > end) throw new UploadLostError();
      if (first === end) return;
      this.#isUnsure = true;
      const head = await this.#patch(chunk, server, signal);
      if (head.status !== RANGE_NOT_SATISFIABLE) {
        this.#accept(head, end);
        this.#isUnsure = false;
        if (this.#sentBytes > first) continue;
      } else {
        await this.#askOffset(server, signal);
        if (this.#sentBytes !== first && corrections++ < CORRECTIONS_MAX) continue;
      }
      const what = `${server.base.host} does not take bytes ${first} to ${end - 1}`;
      throw protocolError('unexpected-status', `${what} of ${this.#blob.digest}`);
    }
  }

  async #patch(chunk: Chunk, server: RegistryServer, signal: AbortSignal): Promise<HttpHead> {
    const first = this.#sentBytes;
    const end = chunk.offset + chunk.length;
    const body = (): AsyncIterable<Uint8Array> => restOf(chunk, first);
    const request = { url: this.#place, length: end - first, body };
    const range = `${first}-${end - 1}`;
    try {
      const head = await this.#request(server, { method: 'PATCH', ...request, range }, signal);
      if (head.status !== NOT_IMPLEMENTED) return head;
    } catch (error) {
      if (isMissing(error) && first > 0) throw new UploadLostError();
      throw error;
    }
    throw protocolError('unexpected-status', `${server.base.host} takes no chunks of blobs`);
  }

  async #request(
    server: RegistryServer,
    init: {
      readonly method: 'PATCH' | 'PUT';
      readonly url: URL;
      readonly length: number;
      readonly body?: () => AsyncIterable<Uint8Array>;
      readonly range?: string;
    },
    signal: AbortSignal,
  ): Promise<HttpHead> {
    const { method, url, length, body, range } = init;
    const { head } = await server.request(
      {
        method,
        path: url.href,
        headers: {
          'content-type': 'application/octet-stream',
          'content-length': String(length),
          ...(range !== undefined && { 'content-range': range }),
        },
        scope: pushScope(this.#blob.origin),
        answers: [RANGE_NOT_SATISFIABLE, ...(method === 'PATCH' ? [NOT_IMPLEMENTED] : [])],
        silenceMs: method === 'PATCH' ? CHUNK_SILENCE_MS_MAX : BLOB_SILENCE_MS_MAX,
        body: body ?? (() => new Uint8Array(0)),
        open: ignore,
      },
      signal,
    );
    if (method === 'PATCH' || head.status !== RANGE_NOT_SATISFIABLE) return head;
    throw new UploadLostError();
  }

  /** Asks the registry what it has. */
  async #askOffset(server: RegistryServer, signal: AbortSignal): Promise<void> {
    try {
      const { head } = await server.request(
        {
          method: 'GET',
          path: this.#place.href,
          headers: {},
          scope: pushScope(this.#blob.origin),
          open: ignore,
        },
        signal,
      );
      this.#accept(head, 0);
    } catch (error) {
      const isGone = error instanceof RegistryError && isFinal(error);
      throw isGone ? new UploadLostError() : error;
    }
    this.#isUnsure = false;
  }

  /** Takes in where to go on, and from which byte: `otherwise` when the registry does not say. */
  #accept(head: HttpHead, otherwise: number): void {
    if (head.headers.location !== undefined) this.#url = readLocation(head, this.#place);
    const last = /^(?:bytes=)?0-([0-9]{1,15})$/.exec(textOf(head, 'range')?.trim() ?? '')?.[1];
    // `0-0` stands for nothing, too.
    if (last === undefined) this.#sentBytes = otherwise;
    else this.#sentBytes = last === '0' ? 0 : Number(last) + 1;
  }
}

/** Cuts the bytes into chunks of this size, the last one shorter. */
async function* chunksOf(
  pieces: AsyncIterable<Uint8Array>,
  sizeBytes: number,
): AsyncGenerator<Chunk> {
  let offset = 0;
  let [length, kept]: [number, Uint8Array[]] = [0, []];
  for await (const piece of pieces) {
    for (let done = 0; done < piece.length; ) {
      const part = piece.subarray(done, done + sizeBytes - length);
      kept.push(part);
      length += part.length;
      done += part.length;
      if (length < sizeBytes) continue;
      yield { offset, length, pieces: kept };
      offset += length;
      [length, kept] = [0, []];
    }
  }
  if (length > 0) yield { offset, length, pieces: kept };
}

/** The bytes of the chunk from this byte of the blob on. */
async function* restOf(chunk: Chunk, first: number): AsyncGenerator<Uint8Array> {
  let at = chunk.offset;
  for (const piece of chunk.pieces) {
    const skipped = Math.max(0, first - at);
    if (skipped < piece.length) yield piece.subarray(skipped);
    at += piece.length;
  }
}

/** The bytes of a blob on their way into a request, which hides why they failed. */
class Source {
  readonly #open: BlobOpener;
  readonly #onProgress: ((sentBytes: number) => void) | undefined;
  failure: unknown;

  constructor(open: BlobOpener, onProgress: ((sentBytes: number) => void) | undefined) {
    this.#open = open;
    this.#onProgress = onProgress;
  }

  async *pieces(): AsyncGenerator<Uint8Array> {
    let sentBytes = 0;
    try {
      for await (const piece of this.#open()) {
        yield piece;
        sentBytes += piece.length;
        this.#onProgress?.(sentBytes);
      }
    } catch (error) {
      this.failure = error;
      throw error;
    }
  }
}

function timeOf(bytes: number): number {
  return STEP_MS + (bytes / BYTES_PER_SECOND_MIN) * 1000;
}

/** Whether the registry has answered, and would answer so again. */
function isFinal({ detail }: RegistryError): boolean {
  if (detail.code === 'protocol') return detail.fault === 'unexpected-status';
  return detail.code === 'not-found' || detail.code === 'denied' || detail.code === 'unauthorized';
}

function isMissing(error: unknown): boolean {
  return error instanceof RegistryError && error.code === 'not-found';
}

function lost({ digest, origin }: OriginBlob): RegistryError {
  const what = `${origin.registry} forgot the upload of ${digest} ${LOSSES_MAX + 1} times`;
  return new RegistryError(`${what}: the connection to it breaks too often`, {
    code: 'unavailable',
  });
}
