import { getCACertificates } from 'node:tls';
import { Agent, type Dispatcher } from 'undici';
import type { Clock } from '../runtime/clock.ts';
import type { CredentialsSource } from './auth.ts';
import { RegistryError } from './errors.ts';
import { HttpSender } from './http.ts';
import type { RegistryMetrics } from './metrics.ts';
import { registryName, registryServer } from './reference.ts';
import { RegistryServer } from './server.ts';

/** Connections to each host. As many as the engine has origin reads outstanding (transfer/core-types.ts). (tunable) */
const CONNECTIONS_MAX = 32;

/** Hosts that one registry may lead to at a time: token servers, storage. */
const HOSTS_MAX = 64;

/** Of an answer; signed URLs in redirections make them long. */
const HEADERS_BYTES_MAX = 64 * 1024;

const CONNECT_MS_MAX = 10_000;

/** An idle connection is kept for this long: below the 60 s after which load balancers forget it without a word. */
const KEEP_ALIVE_MS = 30_000;

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
  readonly credentials?: CredentialsSource | undefined;
  /** Base URLs of servers to ask before it, in this order; they never get its credentials. */
  readonly mirrors?: readonly string[];
}

/** The servers of one registry. */
export interface Registry {
  readonly mirrors: readonly RegistryServer[];
  readonly server: RegistryServer;
  readonly dispatcher: Dispatcher;
}

/** The registries that are in use, with their connections and what was learned about them. */
export class Registries {
  readonly #components: { readonly clock: Clock; readonly metrics: RegistryMetrics };
  readonly #configs: ReadonlyMap<string, RegistryConfig>;
  readonly #configured = new Map<string, Registry>();
  /** Used least recently first. */
  readonly #others = new Map<string, Registry>();
  #closed = false;

  constructor(
    components: { readonly clock: Clock; readonly metrics: RegistryMetrics },
    configs: readonly RegistryConfig[],
  ) {
    this.#components = components;
    this.#configs = new Map(configs.map((config) => [registryName(config.host), config]));
  }

  /** The registry of this name; one that is not configured is asked over HTTPS, anonymously. Throws RegistryError once closed. */
  get(named: string): Registry {
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

  /** Whether the registry is one of the configured ones. */
  isConfigured(named: string): boolean {
    return this.#configs.has(registryName(named));
  }

  /** Breaks off what is under way, and closes the connections. */
  async close(): Promise<void> {
    this.#closed = true;
    const registries = [...this.#configured.values(), ...this.#others.values()];
    this.#configured.clear();
    this.#others.clear();
    await Promise.all(registries.map(({ dispatcher }) => dispatcher.destroy()));
  }

  #open(config: RegistryConfig): Registry {
    const { clock, metrics } = this.#components;
    const dispatcher = makeAgent(config.ca);
    const components = { clock, http: new HttpSender({ clock, dispatcher, metrics }) };
    const anonymous: CredentialsSource = () => Promise.resolve(undefined);
    const namespace = registryName(config.host);
    const scheme = config.insecure === true ? 'http' : 'https';
    const base = new URL(`${scheme}://${registryServer(config.host)}`);
    return {
      dispatcher,
      mirrors: (config.mirrors ?? []).map(
        (mirror) =>
          new RegistryServer(components, {
            base: new URL(mirror),
            credentials: anonymous,
            namespace,
          }),
      ),
      server: new RegistryServer(components, {
        base,
        credentials: config.credentials ?? anonymous,
      }),
    };
  }
}

function makeAgent(ca: string | undefined): Agent {
  return new Agent({
    connections: CONNECTIONS_MAX,
    maxOrigins: HOSTS_MAX,
    maxHeaderSize: HEADERS_BYTES_MAX,
    keepAliveTimeout: KEEP_ALIVE_MS,
    // Silence is watched by the injected clock (http.ts).
    headersTimeout: 0,
    bodyTimeout: 0,
    connect: {
      timeout: CONNECT_MS_MAX,
      ...(ca !== undefined && { ca: [...getCACertificates('default'), ca] }),
    },
  });
}
