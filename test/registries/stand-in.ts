import { randomBytes } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { CONFIG_MEDIA_TYPE, MANIFEST_MEDIA_TYPES } from '../../src/image/manifest.ts';
import { FakeRegistry, type FakeBlob } from '../kit/fake-registry.ts';
import type { AtEnd } from '../kit/temp-folder.ts';

/** Sizes of the layers of each image, in bytes. */
const LAYERS_BYTES = [100_000, 1_000_001, 3_000_000];

export const REPOSITORY = 'team/app';
export const TAG = '1';

/** The one user of registries that want credentials. */
export const USER = { username: 'robot', password: 'pass' };
/** What a server for tokens gives. */
export const TOKEN = 'of-the-token-server';

/** What a request asks for. */
type Part = 'ping' | 'manifest' | 'blob' | 'token' | 'other';

/** A request, as stand-ins decide by it. */
export interface Ask {
  readonly part: Part;
  readonly method: string;
  readonly headers: IncomingMessage['headers'];
  readonly url: string;
  /** The blob that it names, if the server has it. */
  readonly blob: FakeBlob | undefined;
  /** Requests for the same blob before this one, by GET. */
  readonly earlier: number;
  readonly response: ServerResponse;
  /** Answers without a body, or with a short one. */
  answer(status: number, headers?: Readonly<Record<string, string | number>>, body?: string): true;
}

/** Answers in place of the sound server, or leaves the request to it. */
export type Answer = (ask: Ask) => boolean | Promise<boolean>;

/** A registry with one image that nobody has seen yet, and the storage that it may redirect to. */
export class StandIn {
  readonly registry = new FakeRegistry();
  readonly storage = new FakeRegistry();
  /** The config first. */
  readonly blobs: readonly FakeBlob[];
  /** Those that the manifest names and the registry has. */
  layers: readonly FakeBlob[] = [];
  readonly #seen = new Map<string, number>();

  private constructor() {
    const config = Buffer.from(
      JSON.stringify({
        architecture: 'amd64',
        os: 'linux',
        config: { Labels: { nonce: randomBytes(16).toString('hex') } },
        rootfs: { type: 'layers', diff_ids: [] },
      }),
    );
    this.blobs = [
      this.registry.addBlob(config),
      ...LAYERS_BYTES.map((size) => this.registry.add(size)),
    ];
    this.setManifest({});
    for (const blob of this.blobs) this.storage.share(blob);
  }

  /** Starts both servers until the end. */
  static async start(atEnd: AtEnd): Promise<StandIn> {
    const standIn = new StandIn();
    for (const server of [standIn.registry, standIn.storage]) {
      await server.start();
      atEnd(() => server.stop());
    }
    return standIn;
  }

  get host(): string {
    return this.registry.address;
  }

  /** Requests that came to either server. */
  get requests(): number {
    return this.registry.asked.length + this.storage.asked.length;
  }

  /** The requests since the first ones, which may be left out, in order. */
  askedSince(count: number, startMs: number): readonly string[] {
    const all = [...this.registry.asked, ...this.storage.asked];
    return all
      .toSorted((a, b) => a.atMs - b.atMs)
      .slice(count)
      .map(({ method, url, client, range, authorization, atMs }) => {
        const [, path = url] = /^\/v2\/team\/app(\/.*)/.exec(url) ?? [];
        const brief = path.replaceAll(/([0-9a-f]{6})[0-9a-f]{58}/g, '$1');
        const [scheme = '-'] = (authorization ?? '').split(' ');
        const ms = (atMs - startMs).toFixed(0);
        return `${ms} ms ${client} ${method} ${brief} ${range ?? ''} ${scheme}`;
      });
  }

  /** Sets the manifest of the tag, with other fields beside and in place of the usual ones. */
  setManifest(fields: Readonly<Record<string, unknown>>): void {
    const [config, ...layers] = this.blobs.map((blob, i) => ({
      mediaType: i === 0 ? CONFIG_MEDIA_TYPE : 'application/vnd.oci.image.layer.v1.tar+gzip',
      digest: blob.digest,
      size: blob.bytes.length,
    }));
    const [mediaType] = MANIFEST_MEDIA_TYPES;
    const manifest = { schemaVersion: 2, mediaType, config, layers, ...fields };
    const named = JSON.stringify(manifest.layers ?? []);
    this.layers = this.blobs.slice(1).filter(({ digest }) => named.includes(digest));
    this.registry.addManifest(TAG, Buffer.from(JSON.stringify(manifest)));
  }

  /** Has the registry, or the storage, answer by this. */
  answerBy(place: 'registry' | 'storage', answer: Answer): void {
    this[place].behaviours.set('', (request, response, blob) => {
      return answer(this.#ask(request, response, blob));
    });
  }

  #ask(request: IncomingMessage, response: ServerResponse, blob: FakeBlob | undefined): Ask {
    const { method = '', url = '', headers } = request;
    const key = blob?.hex ?? url;
    const earlier = this.#seen.get(key) ?? 0;
    if (method === 'GET') this.#seen.set(key, earlier + 1);
    return {
      ...{ part: partOf(url), method, url, headers, blob, earlier, response },
      answer: (status, more = {}, body) => {
        response.writeHead(status, { 'content-length': Buffer.byteLength(body ?? ''), ...more });
        response.end(method === 'HEAD' ? undefined : body);
        return true;
      },
    };
  }
}

function partOf(url: string): Part {
  if (/^\/v2\/?(\?|$)/.test(url)) return 'ping';
  if (/^\/token/.test(url)) return 'token';
  if (/^\/v2\/.+\/manifests\//.test(url)) return 'manifest';
  return url.includes('sha256') ? 'blob' : 'other';
}
