import { getCACertificates } from 'node:tls';
import { Agent, Dispatcher, Pool, ProxyAgent } from 'undici';

/** Hosts that one registry may lead to at a time: token servers, storage. */
const HOSTS_MAX = 64;

/** Of an answer; signed URLs in redirections make them long. */
const HEADERS_BYTES_MAX = 64 * 1024;

/** For a connection, for the handshakes on it, and for a proxy to open its tunnel. */
const CONNECT_MS_MAX = 10_000;

/** An idle connection is kept for this long: below the 60 s after which load balancers forget it without a word. */
const KEEP_ALIVE_MS = 30_000;

/** A certificate of ours and its key, as PEM. */
export interface ClientCertificate {
  readonly certificate: string;
  readonly key: string;
}

export interface ConnectionsInit {
  /** PEM of authorities, beside the usual ones. */
  readonly ca: string | undefined;
  /** Shown to the server `own` alone: not to token servers, to storage that it redirects to, or to proxies. */
  readonly client: ClientCertificate | undefined;
  readonly own: URL;
  readonly proxyOf: (url: URL) => string | undefined;
  /** To each host. */
  readonly connectionsMax: number;
}

/**
 * The connections to a registry and to where it leads: direct ones, or through a proxy by URL (a tunnel for HTTPS; for plain HTTP
 * the proxy is asked for the whole URL). Life: used -> `close()`, which lets finish, or `destroy()`, which breaks off.
 */
export class Connections extends Dispatcher {
  readonly #init: ConnectionsInit;
  /** By proxy and by whether our certificate is shown: at most six. */
  readonly #dispatchers = new Map<string, Dispatcher>();

  constructor(init: ConnectionsInit) {
    super();
    this.#init = init;
  }

  /** Headers must be given as a mapping. */
  override dispatch(
    options: Dispatcher.DispatchOptions,
    handler: Dispatcher.DispatchHandler,
  ): boolean {
    const { origin, protocol, host } = new URL(options.origin ?? '');
    const proxy = this.#init.proxyOf(new URL(origin));
    if (proxy === undefined || protocol === 'https:') {
      const showsClient = origin === this.#init.own.origin && this.#init.client !== undefined;
      return this.#dispatcher(proxy, showsClient).dispatch(options, handler);
    }
    const to = new URL(proxy);
    const authorization = proxyAuthorization(to);
    const headers = {
      ...(options.headers as Readonly<Record<string, string>>),
      host,
      ...(authorization !== undefined && { 'proxy-authorization': authorization }),
    };
    const whole = { ...options, headers, origin: to.origin, path: `${origin}${options.path}` };
    return this.#dispatcher(undefined, false).dispatch(whole, handler);
  }

  override async close(): Promise<void> {
    await Promise.all([...this.#dispatchers.values()].map((dispatcher) => dispatcher.close()));
  }

  override async destroy(): Promise<void> {
    await Promise.all([...this.#dispatchers.values()].map((dispatcher) => dispatcher.destroy()));
  }

  #dispatcher(proxy: string | undefined, showsClient: boolean): Dispatcher {
    const key = `${showsClient} ${proxy ?? ''}`;
    let dispatcher = this.#dispatchers.get(key);
    if (dispatcher === undefined) {
      dispatcher = this.#make(proxy, showsClient);
      this.#dispatchers.set(key, dispatcher);
    }
    return dispatcher;
  }

  #make(proxy: string | undefined, showsClient: boolean): Dispatcher {
    const { ca, client, connectionsMax } = this.#init;
    const trust = {
      timeout: CONNECT_MS_MAX,
      ...(ca !== undefined && { ca: [...getCACertificates('default'), ca] }),
    };
    const tls = {
      ...trust,
      ...(showsClient && client !== undefined && { cert: client.certificate, key: client.key }),
    };
    const limits = {
      connections: connectionsMax,
      maxOrigins: HOSTS_MAX,
      maxHeaderSize: HEADERS_BYTES_MAX,
      keepAliveTimeout: KEEP_ALIVE_MS,
      // Silence is watched by the injected clock (http.ts).
      headersTimeout: 0,
      bodyTimeout: 0,
    };
    if (proxy === undefined) return new Agent({ ...limits, connect: tls });
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

/** What a proxy is told of the user in its URL. */
function proxyAuthorization({ username, password }: URL): string | undefined {
  if (username === '') return undefined;
  const text = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
  return `Basic ${Buffer.from(text, 'utf8').toString('base64')}`;
}
