import type { BlobOrigin } from '../image/block.ts';
import type { Clock } from '../runtime/clock.ts';
import { BoundedMap } from '../util/bounded-map.ts';
import { errorText } from '../util/errors.ts';
import { isAmong, type Credentials, type CredentialsSource } from './auth/auth.ts';
import { Connections, type ClientCertificate } from './http/connections.ts';
import { RegistryError } from './errors.ts';
import { HttpSender, type HttpSenderInit } from './http/http.ts';
import { Pacers } from './http/pacer.ts';
import type { RegistryMetrics } from './metrics.ts';
import { Mirror, MirrorForm, MirrorHealth, type MirrorSite } from './mirror.ts';
import { apiRoots, pingPath } from './mirror-url.ts';
import { OperationShares } from './operation-shares.ts';
import { ProxyRules, type ProxyEnvironment } from './http/proxy.ts';
import type { TlsHints } from './http/tls-errors.ts';
import { isRegistryHost } from './hosts.ts';
import { registryName, registryServer } from './reference.ts';
import { RegistryServer } from './server.ts';

/**
 * Connections to each host. As many as the engine has origin reads outstanding
 * (transfer/core/core-types.ts), and those that hang beside them (core/origin-windows.ts).
 * (tunable)
 */
const CONNECTIONS_MAX = 32;
const HANGING_MAX = 32;

/**
 * Registries that are not configured and yet known at a time; the one used least recently is
 * forgotten.
 */
const OTHER_REGISTRIES_MAX = 64;

/** Credentials for one repository. */
const CREDENTIALS_MAX = 16;

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
  /**
   * Undefined, or when it knows none or the registry refuses them: those that
   * `RegistriesInit.credentials` gives.
   */
  readonly credentials?: CredentialsSource | undefined;
  /**
   * URL of the proxy for it and for all that it leads to, or `none`; undefined: as the environment
   * says.
   */
  readonly proxy?: string | undefined;
  /**
   * URLs of servers to ask before it, in this order; `apiRoots()` has what a path means. A mirror
   * is used as the entry of its own host says, credentials and certificates included; it never gets
   * those of the registry. One without an entry shares the authorities and the proxy.
   */
  readonly mirrors?: readonly string[];
  /**
   * Prefixes of the storages to which it redirects; requests may reach their hosts wherever they
   * are.
   */
  readonly storage?: readonly string[] | undefined;
  /** Of the same kind: storages whose paths hold no digest. */
  readonly opaqueStorage?: readonly string[] | undefined;
}

/** What to do about a registry, for people. */
export interface RegistryHints {
  /** When credentials are missing or refused. */
  readonly credentials?: string | undefined;
  readonly tls?: TlsHints | undefined;
}

/** What holds for every registry. */
export interface RegistriesInit {
  readonly registries: readonly RegistryConfig[];
  /** Credentials for a repository of a registry, by the name of the registry. */
  readonly credentials?: HostCredentials | undefined;
  /** What to do, in place of words of the configuration. */
  readonly hints?: RegistryHints | undefined;
  readonly proxies?: ProxyEnvironment | undefined;
  /** To each host. */
  readonly connectionsMax?: number | undefined;
  /** Requests to the distribution API of each host, by all clients together. */
  readonly requestsPerSecond?: number | undefined;
  /** Addresses at which hosts that are not configured may be; public ones when absent. */
  readonly mayReach?: ((address: string) => boolean) | undefined;
}

type HostCredentials = (
  registry: string,
  ...asked: Parameters<CredentialsSource>
) => ReturnType<CredentialsSource>;

/**
 * In whose name a registry is asked: the agent's own, with its credentials and certificates, or
 * that of somebody who has none.
 */
export type View = 'own' | 'nobody';

/**
 * The servers of one registry, as one view sees them: what it shows, and the tokens and
 * redirections that it was given for that.
 */
export interface Registry {
  readonly mirrors: readonly Mirror[];
  readonly server: RegistryServer;
}

/** What sends the requests of local clients to a registry, or to any other host. */
export interface ClientSenders {
  /** The registry's own server, or that of the URL. */
  readonly base: URL;
  /** For its distribution API: a configured registry may lead anywhere. */
  readonly api: HttpSender;
  /** For everything else. */
  readonly other: HttpSender;
}

/** A server with its connections. */
interface Site {
  readonly config: RegistryConfig;
  readonly base: URL;
  readonly connections: Connections;
}

interface OpenRegistry extends Site {
  readonly mirrors: readonly (Site & MirrorSite)[];
  readonly views: Map<View, Registry>;
  senders: ClientSenders | undefined;
}

interface RegistriesComponents {
  readonly clock: Clock;
  readonly metrics: RegistryMetrics;
}

/**
 * The registries that are in use, with their connections and what was learned about them: one set
 * for all that ask. Views differ in what they show, and in how long a server wants to be left
 * alone; rates, the health of mirrors and the shares of operations are the same for all.
 */
export class Registries {
  readonly operations = new OperationShares();
  readonly #components: RegistriesComponents;
  readonly #init: RegistriesInit;
  readonly #proxies: ProxyRules;
  readonly #pacers: Pacers;
  readonly #configs: ReadonlyMap<string, RegistryConfig>;
  /**
   * Hosts, as URLs name them, that the configuration names: requests may reach them wherever they
   * are.
   */
  readonly #listed: ReadonlySet<string>;
  readonly #configured = new Map<string, OpenRegistry>();
  readonly #others = new BoundedMap<string, OpenRegistry>({
    entriesMax: OTHER_REGISTRIES_MAX,
    evict: 'use',
    // Requests in flight may finish.
    onEvict: (_, registry) => connectionsOf(registry).forEach((each) => void each.close()),
  });
  #closed = false;

  constructor(components: RegistriesComponents, init: RegistriesInit) {
    this.#components = components;
    this.#init = init;
    this.#proxies = new ProxyRules(init.proxies ?? {});
    this.#configs = new Map(init.registries.map((config) => [registryName(config.host), config]));
    const mirrors = init.registries.flatMap((config) => config.mirrors ?? []);
    const storages = init.registries
      .flatMap(({ storage = [], opaqueStorage = [] }) => [...storage, ...opaqueStorage])
      .filter((prefix) => !prefix.includes('*'));
    this.#listed = new Set([
      ...init.registries.map((config) => baseOf(config).host),
      ...mirrors.map((url) => new URL(url).host),
      ...storages.map((prefix) => new URL(prefix).host),
    ]);
    const { requestsPerSecond } = init;
    this.#pacers = new Pacers(components, { configured: this.#listed, requestsPerSecond });
  }

  /**
   * The registry of this name; one that is not configured is asked over HTTPS. Throws RegistryError
   * once closed.
   */
  get(named: string, view: View): Registry {
    const open = this.#find(named);
    const known = open.views.get(view);
    if (known !== undefined) return known;
    const of = open.config.host;
    const registry = {
      server: this.#server(open, view),
      mirrors: open.mirrors.map(
        (site) => new Mirror(this.#components, this.#server(site, view, of), site),
      ),
    };
    open.views.set(view, registry);
    return registry;
  }

  /** For the host of a client's URL. Throws RegistryError once closed. */
  senders(named: string): ClientSenders {
    const open = this.#find(named);
    const { config, base } = open;
    const use = { lane: 'client', showsCertificate: false } as const;
    open.senders ??= {
      base,
      api: this.#sender(open, { ...use, isGuarded: this.#guard(config) }),
      other: this.#sender(open, { ...use, isGuarded: this.#isUnlisted }),
    };
    return open.senders;
  }

  /** Any mirror of the registry may have sent wrong bytes. */
  distrustMirrors(named: string): void {
    const name = registryName(named);
    const registry = this.#configured.get(name) ?? this.#others.peek(name);
    for (const { health } of registry?.mirrors ?? []) health.distrust();
  }

  /** Whether the registry is one of the configured ones. */
  isConfigured(named: string): boolean {
    return this.#configs.has(registryName(named));
  }

  /**
   * All credentials of this host for a repository, the best first. Rejects with RegistryError.
   */
  async credentialsFor({ registry, repository }: BlobOrigin): Promise<readonly Credentials[]> {
    const name = registryName(registry);
    const config = this.#configs.get(name) ?? { host: name };
    const found: Credentials[] = [];
    while (found.length < CREDENTIALS_MAX) {
      const next = await this.#credentials(config, name, repository, found);
      if (next === undefined) break;
      found.push(next);
    }
    return found;
  }

  /** Breaks off the requests in flight, and closes the connections. */
  async close(): Promise<void> {
    this.#closed = true;
    const registries = [...this.#configured, ...this.#others];
    this.#configured.clear();
    this.#others.clear();
    const open = registries.flatMap(([, registry]) => connectionsOf(registry));
    await Promise.all(open.map((connections) => connections.destroy()));
  }

  #find(named: string): OpenRegistry {
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

  #open(config: RegistryConfig): OpenRegistry {
    const base = baseOf(config);
    const own = this.#connect(config, base);
    const mirrors = (config.mirrors ?? []).flatMap((url) => {
      const mirror = new URL(url);
      const entry = this.#configs.get(registryName(mirror.host));
      const shared = {
        config: entry ?? { host: mirror.host },
        base: new URL(mirror.origin),
        connections: entry === undefined ? own : this.#connect(entry, mirror),
        health: new MirrorHealth(this.#components),
        form: new MirrorForm(),
      };
      return apiRoots(url).map((root) => ({ ...shared, root }));
    });
    return { config, base, connections: own, mirrors, views: new Map(), senders: undefined };
  }

  #connect(config: RegistryConfig, own: URL): Connections {
    const { proxy } = config;
    const fixed = proxy === 'none' ? undefined : proxy;
    return new Connections({
      ca: config.ca,
      client: config.client,
      own,
      proxyOf: proxy === undefined ? (url) => this.#proxies.proxyOf(url) : () => fixed,
      connectionsMax: Math.max(CONNECTIONS_MAX, this.#init.connectionsMax ?? 0),
      hangingMax: HANGING_MAX,
      mayReach: this.#init.mayReach,
    });
  }

  #server(site: Site & Partial<MirrorSite>, view: View, of?: string): RegistryServer {
    const { config, base, connections, root } = site;
    const isOwn = view === 'own';
    const http = this.#sender(
      { connections },
      {
        lane: view,
        showsCertificate: isOwn,
        apiPath: root === undefined ? undefined : pingPath(root),
        // A mirror is the operator's word as well.
        isGuarded: of === undefined ? this.#guard(config) : () => false,
      },
    );
    const name = registryName(config.host);
    return new RegistryServer(
      { clock: this.#components.clock, http },
      {
        base,
        root,
        credentials: async (...asked) =>
          isOwn ? this.#credentials(config, name, ...asked) : undefined,
        hint: this.#init.hints?.credentials,
        ledTo: (url) => this.#ledTo(url, this.isConfigured(config.host) ? view : 'nobody'),
        ...(of !== undefined && { namespace: registryName(of) }),
      },
    );
  }

  /**
   * The registry of a URL, where that is how the configuration says to reach it. A server that the
   * configuration does not name must not have our credentials shown anywhere.
   */
  #ledTo(url: URL, view: View): RegistryServer | undefined {
    if (!isRegistryHost(url.host)) return undefined;
    const { server } = this.get(url.host, view);
    return server.base.origin === url.origin ? server : undefined;
  }

  #sender({ connections }: Pick<Site, 'connections'>, use: HttpSenderInit): HttpSender {
    const parts = { ...this.#components, connections, pacers: this.#pacers };
    // The operator's word on a host holds wherever a server leads to it.
    const mayBePlain = ({ host }: URL): boolean =>
      this.#configs.get(registryName(host))?.insecure === true;
    return new HttpSender({ ...parts, tlsHints: this.#init.hints?.tls }, { ...use, mayBePlain });
  }

  /**
   * A configured registry may lead anywhere; to where any other leads, to what is listed or public.
   */
  #guard({ host }: RegistryConfig): (url: URL) => boolean {
    return this.isConfigured(host) ? () => false : this.#isUnlisted;
  }

  readonly #isUnlisted = (url: URL): boolean => !this.#listed.has(url.host);

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

function baseOf({ host, insecure }: RegistryConfig): URL {
  return new URL(`${insecure === true ? 'http' : 'https'}://${registryServer(host)}`);
}

function connectionsOf({ connections, mirrors }: OpenRegistry): readonly Connections[] {
  return [...new Set([connections, ...mirrors.map((mirror) => mirror.connections)])];
}
