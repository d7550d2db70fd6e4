import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { buffer } from 'node:stream/consumers';
import { LoopbackServer } from '../../src/demo/loopback-server.ts';
import { INDEX_MEDIA_TYPES } from '../../src/image/manifest.ts';
import { answerSoundly } from './fake-registry.ts';
import { digestOf } from './registry-content.ts';

/** What a registry does other than most. */
export interface PushHabits {
  /** Lists referrers by itself. */
  listsReferrers?: boolean;
  /** Of one page of that list, and of that of tags. */
  pageEntries?: number;
  /** Answers to PATCH with this status, and takes nothing. */
  patchStatus?: number;
  /** `OCI-Chunk-Min-Length` */
  chunkBytesMin?: number;
  /** Cuts the connections of the first requests that upload, each after this many bytes. */
  cutsAfter?: number[];
  /** Forgets an upload whose connection broke. */
  forgetsBroken?: boolean;
  /** Loses the answer to a chunk that it has taken, once. */
  losesAnswer?: boolean;
  /** Gives manifests with `Docker-Content-Digest`. */
  namesDigests?: boolean;
  /** Answers to DELETE with this status; 202 when absent. */
  deleteStatus?: number;
  /** Called before a manifest is read by its tag. */
  onTagRead?: ((tag: string) => void) | undefined;
}

/** A stored manifest. */
interface Stored {
  readonly mediaType: string;
  readonly bytes: Buffer;
}

/**
 * A registry in memory that takes uploads in chunks and in one piece, and keeps what came of a
 * broken one. It has its blobs by repository.
 *
 * Life: constructed -> `start()` -> `stop()`.
 */
export class PushRegistry extends LoopbackServer {
  readonly habits: PushHabits;
  /** By `repository digest`. */
  readonly blobs = new Map<string, Buffer>();
  /** By `repository tag` and `repository digest`. */
  readonly manifests = new Map<string, Stored>();
  /** `METHOD /path` without the ids of uploads. */
  readonly asked: string[] = [];
  /** Bytes of blobs that came, also those that were thrown away. */
  receivedBytes = 0;
  readonly #uploads = new Map<string, Buffer[]>();

  constructor(habits: PushHabits = {}) {
    super();
    this.habits = habits;
  }

  protected override async handle(
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    const { method = '' } = request;
    const url = new URL(request.url ?? '', 'http://registry');
    const [, repository = '', kind = '', name = ''] =
      /^\/v2\/(.+)\/(blobs\/uploads|blobs|manifests|referrers|tags)\/(.*)$/.exec(url.pathname) ??
      [];
    this.asked.push(`${method} ${kind}${kind === 'blobs/uploads' ? '' : `/${name}`}`);
    const key = `${repository} ${name}`;
    if (kind === 'blobs/uploads') return this.#upload(request, response, { repository, name, url });
    if (kind === 'manifests') return this.#manifest(request, response, { repository, name });
    if (kind === 'tags') return this.#tags(response, { repository, url });
    if (kind === 'referrers') return this.#referrers(response, { repository, name, url });
    const blob = kind === 'blobs' ? this.blobs.get(key) : undefined;
    if (blob === undefined) return void response.writeHead(404).end();
    answerSoundly(request, response, blob);
  }

  async #upload(
    request: IncomingMessage,
    response: ServerResponse,
    { repository, name, url }: { repository: string; name: string; url: URL },
  ): Promise<void> {
    const { chunkBytesMin, patchStatus } = this.habits;
    const headers = (): Record<string, string> => {
      const sizeBytes = sizeOf(this.#uploads.get(name) ?? []);
      return { location: url.pathname, ...(sizeBytes > 0 && { range: `0-${sizeBytes - 1}` }) };
    };
    if (request.method === 'POST') {
      const digest = url.searchParams.get('mount');
      const found = this.blobs.get(`${url.searchParams.get('from')} ${digest}`);
      if (found !== undefined) {
        this.blobs.set(`${repository} ${digest}`, found);
        return void response.writeHead(201).end();
      }
      const id = randomUUID();
      this.#uploads.set(id, []);
      const least = chunkBytesMin === undefined ? {} : { 'oci-chunk-min-length': chunkBytesMin };
      return void response.writeHead(202, { location: url.pathname + id, ...least }).end();
    }
    const pieces = this.#uploads.get(name);
    if (pieces === undefined) return void response.writeHead(404).end();
    if (request.method === 'GET') return void response.writeHead(204, headers()).end();
    if (request.method === 'PATCH') {
      const range = /^([0-9]+)-([0-9]+)$/.exec(request.headers['content-range'] ?? '');
      const length = Number(range?.[2]) - Number(range?.[1]) + 1;
      const status = patchStatus ?? (Number(range?.[1]) === sizeOf(pieces) ? undefined : 416);
      if (status !== undefined || Number(request.headers['content-length']) !== length) {
        request.resume();
        return void response.writeHead(status ?? 400, headers()).end();
      }
    }
    if (!(await this.#take(request, name, pieces))) return;
    if (request.method === 'PATCH') {
      if (this.habits.losesAnswer === true) {
        this.habits.losesAnswer = false;
        return void request.socket.destroy();
      }
      return void response.writeHead(202, headers()).end();
    }
    const bytes = Buffer.concat(pieces);
    const digest = digestOf(bytes);
    if (digest !== url.searchParams.get('digest')) return void response.writeHead(400).end();
    this.#uploads.delete(name);
    this.blobs.set(`${repository} ${digest}`, bytes);
    response.writeHead(201, { 'docker-content-digest': digest }).end();
  }

  /** Whether all of the body came. */
  async #take(request: IncomingMessage, id: string, pieces: Buffer[]): Promise<boolean> {
    const cutAfter = request.headers['content-length'] === '0' ? undefined : this.#nextCut();
    let taken = 0;
    for await (const piece of request as AsyncIterable<Buffer>) {
      pieces.push(piece);
      taken += piece.length;
      this.receivedBytes += piece.length;
      if (cutAfter === undefined || taken < cutAfter) continue;
      if (this.habits.forgetsBroken === true) this.#uploads.delete(id);
      request.socket.destroy();
      return false;
    }
    return true;
  }

  #nextCut(): number | undefined {
    return this.habits.cutsAfter?.shift();
  }

  async #manifest(
    request: IncomingMessage,
    response: ServerResponse,
    { repository, name }: { repository: string; name: string },
  ): Promise<void> {
    if (request.method === 'PUT') {
      const bytes = await buffer(request);
      const digest = digestOf(bytes);
      const stored = { mediaType: request.headers['content-type'] ?? '', bytes };
      for (const each of [name, digest]) this.manifests.set(`${repository} ${each}`, stored);
      const subject = subjectOf(bytes);
      const isListed = this.habits.listsReferrers === true && subject !== undefined;
      const headers = { 'docker-content-digest': digest };
      response.writeHead(201, { ...headers, ...(isListed && { 'oci-subject': subject }) }).end();
      return;
    }
    if (request.method === 'DELETE') {
      const { deleteStatus = 202 } = this.habits;
      if (deleteStatus < 300) this.#delete(repository, name);
      return void response.writeHead(deleteStatus).end();
    }
    if (!name.startsWith('sha256:')) this.habits.onTagRead?.(name);
    const found = this.manifests.get(`${repository} ${name}`);
    if (found === undefined) return void response.writeHead(404).end();
    const headers = {
      ...{ 'content-type': found.mediaType, 'content-length': found.bytes.length },
      ...(this.habits.namesDigests && { 'docker-content-digest': digestOf(found.bytes) }),
    };
    response.writeHead(200, headers).end(found.bytes);
  }

  /** Removes a manifest, by all of its names. */
  #delete(repository: string, digest: string): void {
    for (const [key, { bytes }] of this.manifests) {
      if (key.startsWith(`${repository} `) && digestOf(bytes) === digest) {
        this.manifests.delete(key);
      }
    }
  }

  #tags(response: ServerResponse, { repository, url }: { repository: string; url: URL }): void {
    const all = [...this.manifests.keys()].flatMap((key) => {
      const [name, tag = ''] = key.split(' ');
      return name === repository && !tag.startsWith('sha256:') ? [tag] : [];
    });
    const { pageEntries = 100 } = this.habits;
    const first = Number(url.searchParams.get('first') ?? 0);
    const next = first + pageEntries;
    const more = { link: `<${url.pathname}?first=${next}>; rel="next"` };
    const headers = { 'content-type': 'application/json', ...(next < all.length && more) };
    response.writeHead(200, headers);
    response.end(JSON.stringify({ name: repository, tags: all.slice(first, next) }));
  }

  #referrers(
    response: ServerResponse,
    { repository, name, url }: { repository: string; name: string; url: URL },
  ): void {
    const { listsReferrers, pageEntries = 100 } = this.habits;
    if (listsReferrers !== true) return void response.writeHead(404).end();
    const all = [...this.manifests].flatMap(([key, { mediaType, bytes }]) => {
      const isOne = key === `${repository} ${digestOf(bytes)}` && subjectOf(bytes) === name;
      if (!isOne) return [];
      const { artifactType } = JSON.parse(bytes.toString()) as { artifactType: string };
      return [{ mediaType, digest: digestOf(bytes), size: bytes.length, artifactType }];
    });
    const first = Number(url.searchParams.get('first') ?? 0);
    const next = first + pageEntries;
    const [mediaType] = INDEX_MEDIA_TYPES;
    const more = { link: `<${url.pathname}?first=${next}>; rel="next"` };
    response.writeHead(200, { 'content-type': mediaType, ...(next < all.length && more) });
    const manifests = all.slice(first, next);
    response.end(JSON.stringify({ schemaVersion: 2, mediaType, manifests }));
  }
}

function subjectOf(bytes: Buffer): string | undefined {
  return (JSON.parse(bytes.toString()) as { subject?: { digest: string } }).subject?.digest;
}

function sizeOf(pieces: readonly Buffer[]): number {
  return pieces.reduce((sum, piece) => sum + piece.length, 0);
}
