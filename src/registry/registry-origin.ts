import type { BlobOrigin, BlobRef } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Hash } from '../runtime/codec.ts';
import type { Logger } from '../runtime/logger.ts';
import type { Metrics } from '../runtime/metrics.ts';
import type { Random } from '../runtime/random.ts';
import type { FetchedManifest, RegistryClient } from './client.ts';
import { RegistryError } from './errors.ts';
import type { OperationOptions } from './http/retry.ts';
import { hostPlatform } from './platform.ts';
import type { RegistriesInit } from './registries.ts';
import { BelievedSources } from './sources.ts';
import {
  OriginError,
  type Origin,
  type OriginErrorDetail,
  type ResolveReply,
  type BlobStat,
} from '../transfer/contracts/origin.ts';
import { unreachable } from '../util/assert.ts';
import { errorText } from '../util/errors.ts';
import { ExpiringMap } from '../util/expiring-map.ts';
import { Keychain, type CredentialFiles } from './credentials/keychain.ts';
import {
  registryConfigs,
  withoutSecrets,
  type RegistryEntry,
} from './credentials/registry-files.ts';
import { proxyEnvironment } from './http/proxy.ts';
import { StatCache } from './stat-cache.ts';

interface RegistryOriginComponents {
  readonly clock: Clock;
  readonly random: Random;
  readonly hash: Hash;
  readonly logger: Logger;
  readonly metrics?: Metrics;
}

interface RegistryOriginInit {
  readonly registries: readonly RegistryEntry[];
  /** Whether the default list of registries is believed too; true when absent. */
  readonly defaultRegistries?: boolean;
  readonly credentials?: CredentialFiles;
  readonly limits?: {
    /** Requests to each registry at a time. */
    readonly originReads: number;
    readonly registryRequestsPerSecond?: number | undefined;
  };
  /** Of the environment: those that name proxies count. */
  readonly variables?: Readonly<Record<string, string | undefined>>;
}
/** A refusal to anybody without credentials is believed for this long, so that each blob of a private repository costs one request. (tunable) */
const PRIVATE_MS = 300_000;
const PRIVATE_MAX = 4096;

/**
 * The registries of the configuration, and any other over HTTPS, as the origin of blocks and images.
 * Images are those for the platform of this host. Life: constructed (reads the files that the configuration names; throws
 * AccessFileError or ProxyVariableError) -> used -> `close()`, which breaks off what is under way.
 */
export class RegistryOrigin implements Origin {
  readonly #components: RegistryOriginComponents;
  readonly #init: RegistriesInit;
  readonly #keychain: Keychain;
  #client: Promise<RegistryClient> | undefined;
  /** Asks as somebody without credentials would. */
  #anonymous: Promise<RegistryClient> | undefined;
  #closed = false;
  readonly #sources: BelievedSources;
  /** Repositories that refused that somebody lately; until when. */
  readonly #private: ExpiringMap<true>;
  readonly #stats: StatCache;

  constructor(components: RegistryOriginComponents, init: RegistryOriginInit) {
    const { limits, credentials = { dockerConfigs: [], pullSecrets: [] } } = init;
    const keychain = new Keychain(components, credentials);
    this.#components = components;
    this.#keychain = keychain;
    this.#init = {
      registries: registryConfigs(init.registries),
      credentials: (...asked) => keychain.get(...asked),
      proxies: proxyEnvironment(init.variables ?? {}),
      connectionsMax: limits?.originReads,
      requestsPerSecond: limits?.registryRequestsPerSecond,
    };
    this.#sources = new BelievedSources({
      registries: init.registries,
      defaults: init.defaultRegistries ?? true,
    });
    this.#private = new ExpiringMap(components, { entriesMax: PRIVATE_MAX });
    this.#stats = new StatCache(components, (digest, origin, signal) =>
      this.#statNow(digest, origin, signal),
    );
  }

  readInto(
    blob: BlobRef & { readonly origin: BlobOrigin },
    offset: number,
    target: Uint8Array,
    signal: AbortSignal,
  ): Promise<void> {
    return this.#ask((client) => client.readBlobInto(blob, offset, target, { signal }));
  }

  resolve(reference: string, signal: AbortSignal): Promise<ResolveReply> {
    return this.#ask(async (client) => {
      const found = await client.resolve(reference, hostPlatform(), { signal });
      this.#components.logger.info(
        { reference, digest: found.digest },
        'image resolved at the registry',
      );
      return { manifestDigest: found.digest, manifest: found.bytes, origin: found.origin };
    });
  }

  /** A manifest or an index as the registry keeps it, by tag or digest. Rejects with RegistryError, or with the signal's reason. */
  async manifest(
    origin: BlobOrigin,
    reference: string,
    options: OperationOptions,
  ): Promise<FetchedManifest> {
    const client = await this.#open();
    return client.manifest(origin, reference, options);
  }

  believes(origin: BlobOrigin): boolean {
    return origin.storage === undefined
      ? this.#sources.isRegistry(origin.registry)
      : this.#sources.believesStorage(origin.storage);
  }

  /** Remembered for minutes, so that a blob that many hosts open costs one request. */
  async stat(digest: Digest, origin: BlobOrigin, signal: AbortSignal): Promise<BlobStat> {
    try {
      return await this.#stats.stat(digest, origin, signal);
    } catch (cause) {
      throw asOriginError(cause);
    }
  }

  distrust(origin: BlobOrigin): void {
    // Without a client nothing was read.
    this.#client?.then((client) => client.distrustMirrors(origin.registry)).catch(() => {});
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#keychain.close();
    const client = await this.#client;
    const anonymous = await this.#anonymous;
    await Promise.all([client?.close(), anonymous?.close()]);
  }

  async #statNow(digest: Digest, origin: BlobOrigin, signal: AbortSignal): Promise<BlobStat> {
    const key = `${origin.registry}/${origin.repository}`;
    // Any server may say that a blob is public: those that nobody chose are not believed.
    if (this.#sources.isRegistry(origin.registry) && this.#private.get(key) === undefined) {
      try {
        const { credentials: _, ...init } = this.#init;
        this.#anonymous ??= this.#load({
          ...init,
          registries: withoutSecrets(init.registries),
        });
        const anonymous = await this.#anonymous;
        return { sizeBytes: await sizeOf(anonymous, digest, { origin, signal }), isPublic: true };
      } catch (error) {
        if (!(error instanceof RegistryError && isRefusal(error))) throw asOriginError(error);
        this.#private.set(key, true, PRIVATE_MS);
      }
    }
    const sizeBytes = await this.#ask((client) => sizeOf(client, digest, { origin, signal }));
    return { sizeBytes, isPublic: false };
  }

  /** Loads the client when it is first asked: most agents read all they need from peers, and the HTTP client takes 15 MiB. */
  #open(): Promise<RegistryClient> {
    this.#client ??= this.#load(this.#init);
    return this.#client;
  }

  #load(init: RegistriesInit): Promise<RegistryClient> {
    if (this.#closed) {
      throw new RegistryError('the registries were closed', { code: 'closed' });
    }
    return import('./client.ts').then(
      ({ RegistryClient }) => new RegistryClient(this.#components, init),
    );
  }

  async #ask<T>(call: (client: RegistryClient) => Promise<T>): Promise<T> {
    try {
      return await call(await this.#open());
    } catch (cause) {
      throw asOriginError(cause);
    }
  }
}

/** Some registries say of what is private that it is not there. */
function isRefusal({ code }: RegistryError): boolean {
  return code === 'unauthorized' || code === 'denied' || code === 'not-found';
}

function asOriginError(cause: unknown): OriginError {
  if (cause instanceof OriginError) return cause;
  return new OriginError(errorText(cause), { code: originCode(cause) }, { cause });
}

function originCode(error: unknown): OriginErrorDetail['code'] {
  // What is not of the registry is the abort of the caller.
  if (!(error instanceof RegistryError)) return 'unavailable';
  const { code } = error;
  switch (code) {
    case 'invalid-reference':
    case 'no-platform':
    case 'not-found':
      return 'not-found';
    case 'unauthorized':
    case 'denied':
      return 'refused';
    case 'rate-limited':
    case 'unavailable':
    case 'timeout':
    case 'protocol':
    case 'digest-mismatch':
    case 'too-large':
    case 'overloaded':
    case 'closed':
      return 'unavailable';
    default:
      return unreachable(code);
  }
}

/** Size of a blob; of a manifest, which the mirror asks about too, when the repository has it as one. */
async function sizeOf(
  client: RegistryClient,
  digest: Digest,
  { origin, signal }: { readonly origin: BlobOrigin; readonly signal: AbortSignal },
): Promise<number> {
  try {
    return await client.blobSize(origin, digest, { signal });
  } catch (error) {
    if (!(error instanceof RegistryError) || error.code !== 'not-found') throw error;
    const manifest = await client.manifest(origin, digest, { signal }).catch(() => undefined);
    if (manifest === undefined) throw error;
    return manifest.bytes.length;
  }
}
