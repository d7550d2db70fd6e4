import { getCACertificates } from 'node:tls';
import { Agent, type Dispatcher } from 'undici';
import { BLOB_SIZE_BYTES_MAX, type BlobOrigin, type BlobRef } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import {
  INDEX_MEDIA_TYPES,
  MANIFEST_MEDIA_TYPES,
  MANIFEST_SIZE_BYTES_MAX,
} from '../image/manifest.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Hash } from '../runtime/codec.ts';
import { silentMetrics, type Metrics } from '../runtime/metrics.ts';
import type { Random } from '../runtime/random.ts';
import { toHex } from '../util/bytes.ts';
import type { CredentialsSource } from './auth.ts';
import { checkContentRange, parseContentRange } from './content-range.ts';
import { protocolError, RegistryError } from './errors.ts';
import { HttpSender, type BodySink, type HttpAnswer, type HttpHead } from './http.ts';
import { registryMetrics, type RegistryMetrics } from './metrics.ts';
import { isIndex, selectPlatform, type Platform } from './platform.ts';
import { checkOrigin, parseReference, registryName, registryServer } from './reference.ts';
import { withDeadline, withRetries, type OperationOptions } from './retry.ts';
import { RegistryServer, type ServerRequest } from './server.ts';
import { CollectingSink, TargetSink } from './sinks.ts';

/** Connections to each host. As many as the engine has origin reads outstanding (transfer/core-types.ts). (tunable) */
const CONNECTIONS_MAX = 32;

/** Hosts that one registry may lead to at a time: token servers, storage. */
const HOSTS_MAX = 64;

/** Of an answer; signed URLs in redirections make them long. */
const HEADERS_BYTES_MAX = 64 * 1024;

const CONNECT_MS_MAX = 10_000;

/** An idle connection is kept for this long; nginx, which stands before many registries, closes after 75 s. */
const KEEP_ALIVE_MS = 60_000;

/** Registries that are not configured and yet known at a time; the one used least recently is forgotten. */
const OTHER_REGISTRIES_MAX = 64;

/** Indexes within indexes that are followed. One is usual. */
const INDEX_DEPTH_MAX = 3;

/** A server that ignores a range sends the blob from its start; so many bytes before the end of the range are read and thrown away at most. */
const IGNORED_RANGE_BYTES_MAX = 8 * 1024 * 1024;

const ACCEPT_MANIFEST = [...MANIFEST_MEDIA_TYPES, ...INDEX_MEDIA_TYPES].join(', ');

/** What a registry needs beyond its name. */
export interface RegistryConfig {
  /** As image references name it. */
  readonly host: string;
  /** Plain HTTP. */
  readonly insecure?: boolean;
  /** PEM of authorities, beside the usual ones. */
  readonly ca?: string | undefined;
  readonly credentials?: CredentialsSource | undefined;
  /** Base URLs of servers to ask before it, in this order; they never get its credentials. */
  readonly mirrors?: readonly string[];
}

/** A manifest as the registry keeps it. */
export interface FetchedManifest {
  readonly digest: Digest;
  readonly mediaType: string;
  readonly bytes: Uint8Array;
  readonly origin: BlobOrigin;
}

interface RegistryClientComponents {
  readonly clock: Clock;
  readonly random: Random;
  readonly hash: Hash;
  readonly metrics?: Metrics;
}

interface Registry {
  readonly dispatcher: Dispatcher;
  /** Mirrors first, the registry itself last. */
  readonly servers: readonly RegistryServer[];
}

/**
 * Reads from registries by the OCI distribution API. Everything rejects with RegistryError, or with the reason of the caller's
 * signal; every operation has a deadline.
 *
 * Life: constructed -> used -> `close()`, which breaks off what is under way. Opens no connection before it is needed.
 */
export class RegistryClient {
  readonly #components: RegistryClientComponents;
  readonly #metrics: RegistryMetrics;
  readonly #configs: ReadonlyMap<string, RegistryConfig>;
  readonly #configured = new Map<string, Registry>();
  /** Used least recently first. */
  readonly #others = new Map<string, Registry>();
  #closed = false;

  constructor(
    components: RegistryClientComponents,
    init: { readonly registries: readonly RegistryConfig[] },
  ) {
    this.#components = components;
    this.#metrics = registryMetrics(components.metrics ?? silentMetrics);
    this.#configs = new Map(init.registries.map((entry) => [registryName(entry.host), entry]));
  }

  /** The manifest of an image for a platform, checked against its digest; an index leads to the one of the platform. */
  async resolve(
    reference: string,
    platform: Platform,
    options: OperationOptions = {},
  ): Promise<FetchedManifest> {
    const { registry, repository, tag, digest } = parseReference(reference);
    const origin = { registry, repository };
    let manifest = await this.manifest(origin, digest ?? tag ?? '', options);
    for (let depth = 0; isIndex(manifest); depth++) {
      if (depth === INDEX_DEPTH_MAX) {
        const what = `${reference} has indexes within indexes, more than ${INDEX_DEPTH_MAX} deep`;
        throw new RegistryError(what, { code: 'no-platform' });
      }
      const chosen = selectPlatform(manifest.bytes, platform, reference);
      manifest = await this.manifest(origin, chosen, options);
    }
    return manifest;
  }

  /** A manifest or an index by its tag or digest, at most 4 MiB, checked against its digest. */
  async manifest(
    origin: BlobOrigin,
    tagOrDigest: string,
    options: OperationOptions = {},
  ): Promise<FetchedManifest> {
    const what = `manifest ${tagOrDigest} of ${origin.registry}/${origin.repository}`;
    const { head, sink } = await this.#pull(origin, options, () => ({
      method: 'GET',
      path: `/v2/${origin.repository}/manifests/${tagOrDigest}`,
      headers: { accept: ACCEPT_MANIFEST },
      open: () => new CollectingSink({ what, sizeBytesMax: MANIFEST_SIZE_BYTES_MAX }),
    }));
    const bytes = sink.bytes();
    const digest = `sha256:${toHex(this.#components.hash.sha256(bytes))}` as Digest;
    const named = tagOrDigest.startsWith('sha256:')
      ? tagOrDigest
      : head.headers['docker-content-digest'];
    if (typeof named === 'string' && named.startsWith('sha256:') && named !== digest) {
      throw new RegistryError(`${what} has digest ${digest}, but ${named} was announced`, {
        code: 'digest-mismatch',
        expected: named,
        actual: digest,
      });
    }
    const mediaType = (head.headers['content-type'] ?? '').split(';')[0]?.trim() ?? '';
    return { digest, mediaType, bytes, origin };
  }

  /** Fills `target` with the bytes of the blob from `offset` on. Nothing is written to it after the call has settled. */
  async readBlobInto(
    blob: BlobRef & { readonly origin: BlobOrigin },
    offset: number,
    target: Uint8Array,
    options: OperationOptions = {},
  ): Promise<void> {
    if (target.length === 0) return;
    const range = { offset, length: target.length, sizeBytes: blob.sizeBytes };
    const what = `bytes ${offset}-${offset + target.length - 1} of ${blob.digest}`;
    await this.#pull(blob.origin, options, () => ({
      method: 'GET',
      path: blobPath(blob.origin, blob.digest),
      headers: { range: `bytes=${offset}-${offset + target.length - 1}` },
      blob: blob.digest,
      open: (head) => {
        refuseCoding(head, what);
        if (head.status === 206) {
          checkContentRange(head, range, what);
          return new TargetSink({ what, target, skipBytes: 0, restIsRefused: true });
        }
        checkIgnoredRange(offset + target.length, what);
        return new TargetSink({ what, target, skipBytes: offset, restIsRefused: false });
      },
    }));
  }

  /** Size of a blob in bytes. */
  async blobSize(
    origin: BlobOrigin,
    digest: Digest,
    options: OperationOptions = {},
  ): Promise<number> {
    const what = `blob ${digest} of ${origin.registry}/${origin.repository}`;
    const path = blobPath(origin, digest);
    const { head } = await this.#pull(origin, options, () => ({
      method: 'HEAD',
      path,
      headers: {},
      open: () => new CollectingSink({ what, sizeBytesMax: 0 }),
    }));
    const length = parseLength(head.headers['content-length']);
    if (length !== undefined) return checkSize(length, what);
    // Some servers leave it out of the answer to HEAD; a range names the whole size.
    const { head: probed } = await this.#pull(origin, options, () => ({
      method: 'GET',
      path,
      headers: { range: 'bytes=0-0' },
      open: () =>
        new TargetSink({ what, target: new Uint8Array(1), skipBytes: 0, restIsRefused: false }),
    }));
    const total = parseContentRange(probed.headers['content-range'])?.total;
    return checkSize(total ?? parseLength(probed.headers['content-length']), what);
  }

  /** Breaks off what is under way, and closes the connections. */
  async close(): Promise<void> {
    this.#closed = true;
    const registries = [...this.#configured.values(), ...this.#others.values()];
    this.#configured.clear();
    this.#others.clear();
    await Promise.all(registries.map(({ dispatcher }) => dispatcher.destroy()));
  }

  /** Asks the servers of the registry one after the other, within one deadline. */
  async #pull<S extends BodySink>(
    origin: BlobOrigin,
    options: OperationOptions,
    make: () => Omit<ServerRequest<S>, 'scope'>,
  ): Promise<HttpAnswer<S>> {
    checkOrigin(origin);
    const { servers } = this.#registry(origin.registry);
    const scope = `repository:${origin.repository}:pull`;
    const components = { ...this.#components, metrics: this.#metrics };
    return withDeadline(components, options, async (signal, deadlineMs) => {
      for (const mirror of servers.slice(0, -1)) {
        try {
          return await mirror.request({ ...make(), scope }, signal);
        } catch (error) {
          // Whatever is wrong with a mirror, the registry itself is still there.
          signal.throwIfAborted();
          if (!(error instanceof RegistryError)) throw error;
        }
      }
      const server = servers.at(-1) as RegistryServer;
      return withRetries(components, { signal, deadlineMs }, () =>
        server.request({ ...make(), scope }, signal),
      );
    });
  }

  #registry(named: string): Registry {
    if (this.#closed) {
      throw new RegistryError('the registry client is closed', { code: 'closed' });
    }
    const name = registryName(named);
    const config = this.#configs.get(name);
    const registries = config === undefined ? this.#others : this.#configured;
    const registry = registries.get(name) ?? this.#open(config ?? { host: name });
    registries.delete(name);
    registries.set(name, registry);
    const [oldest] = this.#others;
    if (this.#others.size > OTHER_REGISTRIES_MAX && oldest !== undefined) {
      this.#others.delete(oldest[0]);
      // Lets finish what is under way.
      oldest[1].dispatcher.close(() => {});
    }
    return registry;
  }

  #open(config: RegistryConfig): Registry {
    const { clock } = this.#components;
    const dispatcher = new Agent({
      connections: CONNECTIONS_MAX,
      maxOrigins: HOSTS_MAX,
      maxHeaderSize: HEADERS_BYTES_MAX,
      keepAliveTimeout: KEEP_ALIVE_MS,
      // Silence is watched by the injected clock (http.ts).
      headersTimeout: 0,
      bodyTimeout: 0,
      connect: {
        timeout: CONNECT_MS_MAX,
        ...(config.ca !== undefined && { ca: [...getCACertificates('default'), config.ca] }),
      },
    });
    const http = new HttpSender({ clock, dispatcher, metrics: this.#metrics });
    const anonymous: CredentialsSource = () => Promise.resolve(undefined);
    const scheme = config.insecure === true ? 'http' : 'https';
    const servers = [
      ...(config.mirrors ?? []).map((base) => ({ base, credentials: anonymous })),
      {
        base: `${scheme}://${registryServer(config.host)}`,
        credentials: config.credentials ?? anonymous,
      },
    ];
    return {
      dispatcher,
      servers: servers.map(
        ({ base, credentials }) =>
          new RegistryServer({ clock, http }, { base: new URL(base), credentials }),
      ),
    };
  }
}

function blobPath(origin: BlobOrigin, digest: Digest): string {
  return `/v2/${origin.repository}/blobs/${digest}`;
}

/** A coded body has other bytes than were asked for. */
function refuseCoding(head: HttpHead, what: string): void {
  const coding = head.headers['content-encoding'];
  if (coding === undefined || coding === 'identity') return;
  throw protocolError('bad-coding', `${what}: sent with Content-Encoding ${coding}`);
}

function checkIgnoredRange(end: number, what: string): void {
  if (end <= IGNORED_RANGE_BYTES_MAX) return;
  const rule = `only ranges that end within ${IGNORED_RANGE_BYTES_MAX} bytes can be had that way`;
  throw protocolError('range-ignored', `${what}: the server ignores ranges, and ${rule}`);
}

function parseLength(header: string | undefined): number | undefined {
  return header !== undefined && /^[0-9]{1,15}$/.test(header) ? Number(header) : undefined;
}

function checkSize(size: number | undefined, what: string): number {
  if (size === undefined) {
    throw protocolError('no-size', `${what}: the registry does not tell its size`);
  }
  if (size > BLOB_SIZE_BYTES_MAX) {
    const why = `${what} has ${size} bytes, more than ${BLOB_SIZE_BYTES_MAX}`;
    throw new RegistryError(why, { code: 'too-large', sizeBytesMax: BLOB_SIZE_BYTES_MAX });
  }
  return size;
}
