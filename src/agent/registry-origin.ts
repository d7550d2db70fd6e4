import type { BlobOrigin, BlobRef } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Hash } from '../runtime/codec.ts';
import type { Logger } from '../runtime/logger.ts';
import type { Metrics } from '../runtime/metrics.ts';
import type { Random } from '../runtime/random.ts';
import type { FetchedManifest, RegistryClient } from '../registry/client.ts';
import { RegistryError } from '../registry/errors.ts';
import type { OperationOptions } from '../registry/retry.ts';
import { hostPlatform } from '../registry/platform.ts';
import type { RegistriesInit } from '../registry/registries.ts';
import { OriginError, type Origin, type OriginErrorDetail } from '../transfer/origin.ts';
import type { ResolveReply } from '../tree/messages.ts';
import { unreachable } from '../util/assert.ts';
import { errorText } from '../util/errors.ts';
import type { Config } from './config-schema.ts';
import { Keychain } from './keychain.ts';
import { proxyEnvironment, registryConfigs } from './registry-access.ts';

interface RegistryOriginComponents {
  readonly clock: Clock;
  readonly random: Random;
  readonly hash: Hash;
  readonly logger: Logger;
  readonly metrics?: Metrics;
}

interface RegistryOriginInit {
  readonly registries: Config['registries'];
  readonly credentials?: Config['credentials'];
  readonly limits?: Config['limits'];
  /** Of the environment: those that name proxies count. */
  readonly variables?: Readonly<Record<string, string | undefined>>;
}

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
  #closed = false;

  constructor(components: RegistryOriginComponents, init: RegistryOriginInit) {
    const { limits, credentials = { dockerConfigs: [], pullSecrets: [] } } = init;
    const keychain = new Keychain(components, credentials);
    this.#components = components;
    this.#keychain = keychain;
    this.#init = {
      registries: registryConfigs(init.registries),
      credentials: (registry, repository) => keychain.get(registry, repository),
      proxies: proxyEnvironment(init.variables ?? {}),
      connectionsMax: limits?.originReads,
      requestsPerSecond: limits?.registryRequestsPerSecond,
    };
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

  stat(digest: Digest, origin: BlobOrigin, signal: AbortSignal): Promise<number> {
    return this.#ask((client) => client.blobSize(origin, digest, { signal }));
  }

  distrust(origin: BlobOrigin): void {
    // Without a client nothing was read.
    this.#client?.then((client) => client.distrustMirrors(origin.registry)).catch(() => {});
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#keychain.close();
    const client = await this.#client;
    await client?.close();
  }

  /** Loads the client when it is first asked: most agents read all they need from peers, and the HTTP client takes 15 MiB. */
  #open(): Promise<RegistryClient> {
    if (this.#client === undefined && this.#closed) {
      throw new RegistryError('the registries were closed', { code: 'closed' });
    }
    this.#client ??= import('../registry/client.ts').then(
      ({ RegistryClient }) => new RegistryClient(this.#components, this.#init),
    );
    return this.#client;
  }

  async #ask<T>(call: (client: RegistryClient) => Promise<T>): Promise<T> {
    try {
      return await call(await this.#open());
    } catch (cause) {
      throw new OriginError(errorText(cause), { code: originCode(cause) }, { cause });
    }
  }
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
