import { lookup as systemLookup, type LookupAddress } from 'node:dns';
import { isIP, type LookupFunction } from 'node:net';
import { getCACertificates } from 'node:tls';
import { Agent, Pool, ProxyAgent, type Dispatcher } from 'undici';
import { isPublicAddress } from './public-address.ts';

/** Hosts that one registry may lead to at a time: token servers, storage. */
const HOSTS_MAX = 64;

/** Of an answer; signed URLs in redirections make them long. */
const HEADERS_BYTES_MAX = 64 * 1024;

/** For a connection, for the handshakes on it, and for a proxy to open its tunnel. */
const CONNECT_MS_MAX = 10_000;

/**
 * An idle connection is kept for this long: below the 60 s after which load balancers forget it
 * silently.
 */
const KEEP_ALIVE_MS = 30_000;

/** Our certificate and its key, as PEM. */
export interface ClientCertificate {
  readonly certificate: string;
  readonly key: string;
}

/** Whom the connections trust, what they show, and through which proxies they go. */
export interface ConnectionsInit {
  /** PEM of authorities, beside the usual ones. */
  readonly ca: string | undefined;
  /**
   * Shown to the server `own` alone: not to token servers, to storage that it redirects to, or to
   * proxies.
   */
  readonly client: ClientCertificate | undefined;
  readonly own: URL;
  readonly proxyOf: (url: URL) => string | undefined;
  /** Connections to each host for the agent itself; local clients get as many again. */
  readonly connectionsMax: number;
  /** The agent itself has this number more, for requests that hang and stay open. */
  readonly hangingMax?: number | undefined;
  /** Addresses that guarded requests may reach. */
  readonly mayReach?: ((address: string) => boolean) | undefined;
}

/** For whom a request is made: decides over the connections that it may take. */
export interface ConnectionUse {
  /** Local clients have connections of their own: slow ones must not take those of the agent. */
  readonly isForClient: boolean;
  readonly showsCertificate: boolean;
  /** Made for a URL that the operator did not name: reaches public addresses alone. */
  readonly isGuarded: boolean;
}

/** A guarded request would have led to this host, its neighbours, its cluster or nowhere. */
export class ForbiddenAddressError extends Error {
  override name = 'ForbiddenAddressError';
}

/**
 * The connections to a registry and to where it leads: direct ones, or through a proxy by URL (a
 * tunnel for HTTPS; for plain HTTP the proxy is asked for the whole URL). Life: used -> `close()`,
 * which lets finish, or `destroy()`, which breaks off.
 */
export class Connections {
  readonly #init: ConnectionsInit;
  readonly #mayReach: (address: string) => boolean;
  /** By proxy and use: a connection made for one use serves no other. */
  readonly #dispatchers = new Map<string, Dispatcher>();

  constructor(init: ConnectionsInit) {
    this.#init = init;
    this.#mayReach = init.mayReach ?? isPublicAddress;
  }

  /**
   * Headers must be given as a mapping. The handler hears of a ForbiddenAddressError as of any
   * failure to connect.
   */
  dispatch(
    options: Dispatcher.DispatchOptions & {
      readonly origin: string;
      readonly headers: Readonly<Record<string, string>>;
    },
    handler: Dispatcher.DispatchHandler & { onResponseError(by: never, error: Error): void },
    use: ConnectionUse,
  ): void {
    const { origin, protocol, host, hostname } = new URL(options.origin);
    const literal = hostname.replace(/^\[(.*)\]$/, '$1');
    // No name is looked up for these, and a proxy looks names up itself.
    if (use.isGuarded && isIP(literal) !== 0 && !this.#mayReach(literal)) {
      handler.onResponseError(undefined as never, forbidden(literal));
      return;
    }
    const proxy = this.#init.proxyOf(new URL(origin));
    if (proxy === undefined || protocol === 'https:') {
      const showsCertificate =
        use.showsCertificate && origin === this.#init.own.origin && this.#init.client !== undefined;
      this.#dispatcher(proxy, { ...use, showsCertificate }).dispatch(options, handler);
      return;
    }
    const to = new URL(proxy);
    const authorization = proxyAuthorization(to);
    const headers = {
      ...options.headers,
      host,
      ...(authorization !== undefined && { 'proxy-authorization': authorization }),
    };
    const whole = { ...options, headers, origin: to.origin, path: `${origin}${options.path}` };
    const toProxy = { ...use, showsCertificate: false, isGuarded: false };
    this.#dispatcher(undefined, toProxy).dispatch(whole, handler);
  }

  async close(): Promise<void> {
    await Promise.all([...this.#dispatchers.values()].map((dispatcher) => dispatcher.close()));
  }

  async destroy(): Promise<void> {
    await Promise.all([...this.#dispatchers.values()].map((dispatcher) => dispatcher.destroy()));
  }

  #dispatcher(proxy: string | undefined, use: ConnectionUse): Dispatcher {
    const { isForClient, showsCertificate, isGuarded } = use;
    const key = `${isForClient} ${showsCertificate} ${isGuarded} ${proxy ?? ''}`;
    let dispatcher = this.#dispatchers.get(key);
    if (dispatcher === undefined) {
      dispatcher = this.#make(proxy, use);
      this.#dispatchers.set(key, dispatcher);
    }
    return dispatcher;
  }

  #make(proxy: string | undefined, use: ConnectionUse): Dispatcher {
    const { showsCertificate, isGuarded, isForClient } = use;
    const { ca, client, connectionsMax, hangingMax = 0 } = this.#init;
    const trust = {
      timeout: CONNECT_MS_MAX,
      ...(ca !== undefined && { ca: [...getCACertificates('default'), ca] }),
    };
    const tls = {
      ...trust,
      ...(showsCertificate &&
        client !== undefined && { cert: client.certificate, key: client.key }),
    };
    const limits = {
      connections: isForClient ? connectionsMax : connectionsMax + hangingMax,
      maxOrigins: HOSTS_MAX,
      maxHeaderSize: HEADERS_BYTES_MAX,
      keepAliveTimeout: KEEP_ALIVE_MS,
      // Silence is watched by the injected clock (http.ts).
      headersTimeout: 0,
      bodyTimeout: 0,
    };
    if (proxy === undefined) {
      const guard = isGuarded ? { lookup: guardedLookup(this.#mayReach) } : {};
      return new Agent({ ...limits, connect: { ...tls, ...guard } });
    }
    const token = proxyAuthorization(new URL(proxy));
    return new ProxyAgent({
      ...limits,
      uri: new URL(proxy).origin,
      ...(token !== undefined && { token }),
      requestTls: tls,
      proxyTls: trust,
      clientFactory: (origin, options) =>
        new Pool(origin, { ...options, headersTimeout: CONNECT_MS_MAX }),
    });
  }
}

/**
 * Looks names up when the connection is made, and leaves out the addresses that may not be reached:
 * what a name meant a moment before proves nothing.
 */
export function guardedLookup(
  mayReach: (address: string) => boolean,
  lookup: typeof systemLookup = systemLookup,
): LookupFunction {
  return (hostname, options, done) => {
    lookup(hostname, { ...options, all: true }, (error, addresses) => {
      if (error !== null) return done(error, []);
      const allowed = (addresses as LookupAddress[]).filter(({ address }) => mayReach(address));
      const [first] = allowed;
      if (first === undefined) return done(forbidden(hostname), []);
      if (options.all === true) done(null, allowed);
      else done(null, first.address, first.family);
    });
  };
}

function forbidden(host: string): ForbiddenAddressError {
  return new ForbiddenAddressError(
    `${host} is at no public address: where it shall be reached, name it in registries`,
  );
}

/** What a proxy is told of the user in its URL. */
function proxyAuthorization({ username, password }: URL): string | undefined {
  if (username === '') return undefined;
  const text = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
  return `Basic ${Buffer.from(text, 'utf8').toString('base64')}`;
}
