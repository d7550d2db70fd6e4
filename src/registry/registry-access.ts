import type { BlobOrigin } from '../image/block.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Hash } from '../runtime/codec.ts';
import type { Logger } from '../runtime/logger.ts';
import { silentMetrics, type Metrics } from '../runtime/metrics.ts';
import type { Random } from '../runtime/random.ts';
import type { Credentials } from './auth/auth.ts';
import type { RegistryClient } from './client.ts';
import { Keychain, type CredentialFiles } from './credentials/keychain.ts';
import { registryConfigs, type RegistryEntry } from './credentials/registry-files.ts';
import { RegistryError } from './errors.ts';
import { proxyEnvironment } from './http/proxy.ts';
import { OwnRefusals } from './own-refusals.ts';
import type { RegistriesInit, RegistryHints } from './registries.ts';
import { RegistryOrigin } from './registry-origin.ts';
import type { RegistryViews } from './registry-views.ts';
import { BelievedSources } from './sources.ts';
import { UrlClient } from './url-client.ts';

interface RegistryAccessComponents {
  readonly clock: Clock;
  readonly random: Random;
  readonly hash: Hash;
  readonly logger: Logger;
  readonly metrics?: Metrics;
}

interface RegistryAccessInit {
  /** A root tells of repositories that its credentials do not open. */
  readonly role?: string;
  readonly registries: readonly RegistryEntry[];
  /** Whether the default list of registries is believed too; true when absent. */
  readonly defaultRegistries?: boolean;
  readonly credentials?: CredentialFiles;
  readonly hints?: RegistryHints;
  readonly limits?: {
    /** Requests to each registry at a time. */
    readonly originReads: number;
    readonly registryRequestsPerSecond?: number | undefined;
  };
  /** Of the environment: those that name proxies count. */
  readonly variables?: Readonly<Record<string, string | undefined>>;
  /** Addresses at which hosts that are not configured may be; public ones when absent. */
  readonly mayReach?: (address: string) => boolean;
}

/**
 * All that this host asks of registries: as the origin of blocks and images, and in the name of
 * local clients. Life: constructed (reads the files that the configuration names; throws
 * AccessFileError or ProxyVariableError) -> used -> `close()`, which breaks off what is in flight.
 */
export class RegistryAccess {
  readonly origin: RegistryOrigin;
  readonly urls: UrlClient;
  /** What of all this the configuration believes. */
  readonly sources: BelievedSources;
  readonly #components: RegistryAccessComponents;
  readonly #init: RegistriesInit;
  readonly #keychain: Keychain;
  #views: Promise<RegistryViews> | undefined;
  #closed = false;

  constructor(components: RegistryAccessComponents, init: RegistryAccessInit) {
    const { limits, credentials = { dockerConfigs: [], pullSecrets: [] } } = init;
    const keychain = new Keychain(components, credentials);
    this.#components = components;
    this.#keychain = keychain;
    this.#init = {
      registries: registryConfigs(init.registries),
      credentials: (...asked) => keychain.get(...asked),
      hints: init.hints,
      proxies: proxyEnvironment(init.variables ?? {}),
      connectionsMax: limits?.originReads,
      requestsPerSecond: limits?.registryRequestsPerSecond,
      mayReach: init.mayReach,
    };
    const { registries, defaultRegistries: defaults = true } = init;
    this.sources = new BelievedSources({ registries, defaults });
    const { sources } = this;
    const load = (): Promise<RegistryViews> => this.#load();
    const loaded = (): Promise<RegistryViews> | undefined => this.#views;
    const refusals = init.role === 'root' ? new OwnRefusals(components, init) : undefined;
    this.origin = new RegistryOrigin({ ...components, load, loaded, sources, refusals });
    const clients = async () => (await load()).clients;
    this.urls = new UrlClient({ load: clients });
  }

  /**
   * Loads the HTTP client now. A root needs it for its first host, which would else wait for the
   * code. Rejects with RegistryError.
   */
  async warm(): Promise<void> {
    await this.#load();
  }

  /** Reads and writes with the credentials of the host. Rejects with RegistryError once closed. */
  async client(): Promise<RegistryClient> {
    return (await this.#load()).own;
  }

  /**
   * All credentials of this host for a repository, the best first: for a process that this host
   * runs. Rejects with RegistryError.
   */
  async credentialsFor(origin: BlobOrigin): Promise<readonly Credentials[]> {
    return (await this.#load()).registries.credentialsFor(origin);
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#keychain.close();
    const views = await this.#views;
    await views?.registries.close();
  }

  /**
   * When somebody first asks: most agents read all they need from peers, and the HTTP client takes
   * 15 MiB.
   */
  async #load(): Promise<RegistryViews> {
    if (this.#closed) {
      throw new RegistryError('the registries were closed', { code: 'closed' });
    }
    const components = { metrics: silentMetrics, ...this.#components };
    this.#views ??= import('./registry-views.ts').then(({ makeViews }) =>
      makeViews(components, this.#init),
    );
    return this.#views;
  }
}
