import type { Dispatcher } from 'undici';
import type { Clock } from '../runtime/clock.ts';
import { BoundedMap } from '../util/bounded-map.ts';
import { errorText } from '../util/errors.ts';
import { isAmong, type Credentials, type CredentialsSource } from './auth/auth.ts';
import { Connections, type ClientCertificate } from './http/connections.ts';
import { RegistryError } from './errors.ts';
import { HttpSender } from './http/http.ts';
import type { RegistryMetrics } from './metrics.ts';
import { Mirror } from './mirror.ts';
import { ProxyRules, type ProxyEnvironment } from './http/proxy.ts';
import { registryName, registryServer } from './reference.ts';
import { RegistryServer } from './server.ts';

/** Connections to each host. As many as the engine has origin reads outstanding (transfer/core/core-types.ts). (tunable) */
const CONNECTIONS_MAX = 32;

/** Registries that are not configured and yet known at a time; the one used least recently is forgotten. */
const OTHER_REGISTRIES_MAX = 64;

/** What a registry needs beyond its name. */
export interface RegistryConfig {
  /** As image references name it. */
  readonly host: string;
  /** Plain HTTP. */
  readonly insecure?: boolean;
  /** PEM of authorities, beside the usual ones. */
  readonly ca?: string | undefined;
  /** Shown to the registry itself alone. */
  readonly client?: ClientCertificate | undefined;
  /** Undefined, or when it knows none or the registry refuses them: those that `RegistriesInit.credentials` gives. */
  readonly credentials?: CredentialsSource | undefined;
  /** URL of the proxy for it and for all that it leads to, or `none`; undefined: as the environment says. */
  readonly proxy?: string | undefined;
  /**
   * Base URLs of servers to ask before it, in this order. A mirror is used as the entry of its own host says, credentials and
   * certificates included; it never gets those of the registry. One without an entry shares the authorities and the proxy.
   */
  readonly mirrors?: readonly string[];
}

/** What holds for every registry. */
export interface RegistriesInit {
  readonly registries: readonly RegistryConfig[];
  /** Credentials for a repository of a registry, by the name of the registry. */
  readonly credentials?: HostCredentials | undefined;
  readonly proxies?: ProxyEnvironment | undefined;
  /** To each host. */
  readonly connectionsMax?: number | undefined;
  /** Requests to each registry. */
  readonly requestsPerSecond?: number | undefined;
}

type HostCredentials = (
  registry: string,
  ...asked: Parameters<CredentialsSource>
) => ReturnType<CredentialsSource>;

/** The servers of one registry. */
export interface Registry {
  readonly mirrors: readonly Mirror[];
  readonly server: RegistryServer;
  /** The connections to the registry's own server. */
  readonly dispatcher: Dispatcher;
}

interface OpenRegistry extends Registry {
  readonly dispatchers: readonly Dispatcher[];
}

/** The registries that are in use, with their connections and what was learned about them. */
export class Registries {
  readonly #components: { readonly clock: Clock; readonly metrics: RegistryMetrics };
  readonly #init: RegistriesInit;
  readonly #proxies: ProxyRules;
  readonly #configs: ReadonlyMap<string, RegistryConfig>;
  readonly #configured = new Map<string, OpenRegistry>();
  readonly #others = new BoundedMap<string, OpenRegistry>({
    entriesMax: OTHER_REGISTRIES_MAX,
    evict: 'use',
    // Lets finish what is under way.
    onEvict: (_, { dispatchers }) => dispatchers.forEach((dispatcher) => void dispatcher.close()),
  });
  #closed = false;

  constructor(
    components: { readonly clock: Clock; readonly metrics: RegistryMetrics },
    init: RegistriesInit,
  ) {
    this.#components = components;
    this.#init = init;
    this.#proxies = new ProxyRules(init.proxies ?? {});
    this.#configs = new Map(init.registries.map((config) => [registryName(config.host), config]));
  }

  /** The registry of this name; one that is not configured is asked over HTTPS, anonymously. Throws RegistryError once closed. */
  get(named: string): Registry {
    if (this.#closed) {
      throw new RegistryError('the registry client is closed', { code: 'closed' });
    }
    const name = registryName(named);
    const config = this.#configs.get(name);
    const registries = config === undefined ? this.#others : this.#configured;
    const known = registries.get(name);
    if (known !== undefined) return known;
    const registry = this.#open(config ?? { host: name });
    registries.set(name, registry);
    return registry;
  }

  /** Any mirror of the registry may have sent wrong bytes. */
  distrustMirrors(named: string): void {
    const name = registryName(named);
    const registry = this.#configured.get(name) ?? this.#others.peek(name);
    for (const mirror of registry?.mirrors ?? []) mirror.distrust();
  }

  /** Whether the registry is one of the configured ones. */
  isConfigured(named: string): boolean {
    return this.#configs.has(registryName(named));
  }

  /** Breaks off what is under way, and closes the connections. */
  async close(): Promise<void> {
    this.#closed = true;
    const registries = [...this.#configured, ...this.#others];
    this.#configured.clear();
    this.#others.clear();
    const open = registries.flatMap(([, { dispatchers }]) => dispatchers);
    await Promise.all(open.map((dispatcher) => dispatcher.destroy()));
  }

  #open(config: RegistryConfig): OpenRegistry {
    const scheme = config.insecure === true ? 'http' : 'https';
    const base = new URL(`${scheme}://${registryServer(config.host)}`);
    const own = this.#connect(config, base);
    const registry = { dispatchers: [own], mirrors: [] as Mirror[] };
    for (const url of config.mirrors ?? []) {
      const mirror = new URL(url);
      const entry = this.#configs.get(registryName(mirror.host));
      const dispatcher = entry === undefined ? own : this.#connect(entry, mirror);
      if (dispatcher !== own) registry.dispatchers.push(dispatcher);
      const as = entry ?? { host: mirror.host };
      const server = this.#server(as, dispatcher, { base: mirror, of: config.host });
      registry.mirrors.push(new Mirror(this.#components, server));
    }
    return { ...registry, dispatcher: own, server: this.#server(config, own, { base }) };
  }

  #connect(config: RegistryConfig, own: URL): Dispatcher {
    const { proxy } = config;
    const fixed = proxy === 'none' ? undefined : proxy;
    return new Connections({
      ca: config.ca,
      client: config.client,
      own,
      proxyOf: proxy === undefined ? (url) => this.#proxies.proxyOf(url) : () => fixed,
      connectionsMax: Math.max(CONNECTIONS_MAX, this.#init.connectionsMax ?? 0),
    });
  }

  #server(
    config: RegistryConfig,
    dispatcher: Dispatcher,
    init: { readonly base: URL; readonly of?: string },
  ): RegistryServer {
    const { clock, metrics } = this.#components;
    const http = new HttpSender({ clock, dispatcher, metrics });
    const name = registryName(config.host);
    const { requestsPerSecond } = this.#init;
    return new RegistryServer(
      { clock, http, metrics },
      {
        base: init.base,
        credentials: (...asked) => this.#credentials(config, name, ...asked),
        ...(init.of !== undefined && { namespace: registryName(init.of) }),
        ...(requestsPerSecond !== undefined && { requestsPerSecond }),
      },
    );
  }

  async #credentials(
    config: RegistryConfig,
    name: string,
    ...[repository, refused]: Parameters<CredentialsSource>
  ): Promise<Credentials | undefined> {
    try {
      const own = await config.credentials?.(repository, refused);
      if (own !== undefined && !isAmong(own, refused)) return own;
      return await this.#init.credentials?.(name, repository, refused);
    } catch (cause) {
      // Perhaps they are just being replaced.
      const why = `no credentials for ${name}: ${errorText(cause)}`;
      throw new RegistryError(why, { code: 'unavailable' }, { cause });
    }
  }
}
