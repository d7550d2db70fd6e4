import { BlockList, isIP } from 'node:net';
import { CodedError } from '../../util/errors.ts';
import { isLoopback, isProxyUrl } from '../hosts.ts';

/** Which proxy leads to which host, as the usual variables say it. */
export interface ProxyEnvironment {
  /** HTTP_PROXY: for `http:` URLs. */
  readonly httpProxy?: string | undefined;
  /** HTTPS_PROXY: for `https:` URLs. */
  readonly httpsProxy?: string | undefined;
  /** NO_PROXY: hosts that are asked directly. */
  readonly noProxy?: string | undefined;
}

/** Entries of NO_PROXY that are read. */
const NO_PROXY_ENTRIES_MAX = 1024;

/**
 * Chooses the proxy of each URL. NO_PROXY is a list with commas or spaces between: `*` (every
 * host), a name (itself and what is below it; a leading `.` or `*.` changes nothing), an address,
 * or a network such as `10.0.0.0/8`; each but networks perhaps with `:PORT`. What is on loopback is
 * never asked for through a proxy, as in Go's clients.
 */
export class ProxyRules {
  readonly #environment: ProxyEnvironment;
  readonly #networks = new BlockList();
  readonly #names: { readonly host: string; readonly port: string | undefined }[] = [];
  readonly #never: boolean;

  constructor(environment: ProxyEnvironment) {
    this.#environment = environment;
    const entries = (environment.noProxy ?? '').toLowerCase().split(/[\s,]+/);
    this.#never = entries.includes('*');
    for (const entry of entries.slice(0, NO_PROXY_ENTRIES_MAX)) {
      if (entry !== '' && !this.#addNetwork(entry)) this.#names.push(splitPort(entry));
    }
  }

  /** The URL of the proxy to ask; undefined for none. */
  proxyOf(url: URL): string | undefined {
    const { httpProxy, httpsProxy } = this.#environment;
    const proxy = url.protocol === 'https:' ? httpsProxy : httpProxy;
    return proxy === undefined || proxy === '' || this.#isDirect(url) ? undefined : proxy;
  }

  #isDirect(url: URL): boolean {
    const host = bare(url.hostname);
    if (this.#never || host === 'localhost' || isLoopback(host)) return true;
    const family = isIP(host);
    if (family !== 0 && this.#networks.check(host, family === 6 ? 'ipv6' : 'ipv4')) return true;
    const port = url.port === '' ? (url.protocol === 'https:' ? '443' : '80') : url.port;
    return this.#names.some(
      (name) =>
        (name.port === undefined || name.port === port) &&
        (host === name.host || (family === 0 && host.endsWith(`.${name.host}`))),
    );
  }

  /** Whether the entry is a network. */
  #addNetwork(entry: string): boolean {
    const [address = '', bits = '', ...rest] = entry.split('/');
    const family = isIP(address);
    const isPrefix = /^[0-9]{1,3}$/.test(bits) && Number(bits) <= (family === 6 ? 128 : 32);
    if (family === 0 || rest.length > 0 || !isPrefix) return false;
    this.#networks.addSubnet(address, Number(bits), family === 6 ? 'ipv6' : 'ipv4');
    return true;
  }
}

function splitPort(entry: string): { host: string; port: string | undefined } {
  const [, host = entry, port] = /^(\[.*\]|[^:]*):([0-9]{1,5})$/.exec(entry) ?? [];
  return { host: bare(host).replace(/^\*?\./, ''), port };
}

/** Without the brackets of an IPv6 address. */
function bare(host: string): string {
  return host.replace(/^\[(.*)\]$/, '$1');
}

/**
 * A variable of the environment names no proxy. The message does not hold its value, which may have
 * a password.
 */
class ProxyVariableError extends CodedError<{
  readonly code: 'invalid';
  readonly variable: string;
}> {}

/**
 * The proxies that the usual variables name, in lower case or (if that is not set) in upper case.
 * Throws ProxyVariableError.
 */
export function proxyEnvironment(
  variables: Readonly<Record<string, string | undefined>>,
): ProxyEnvironment {
  const proxy = (name: string): string | undefined => {
    const value = variables[name.toLowerCase()] ?? variables[name];
    if (value === undefined || value === '') return undefined;
    const url = value.includes('://') ? value : `http://${value}`;
    if (isProxyUrl(url)) return url;
    const what = `the variable ${name} must be a proxy URL: http[s]://[USER:PASSWORD@]HOST[:PORT]`;
    throw new ProxyVariableError(what, { code: 'invalid', variable: name });
  };
  return {
    httpProxy: proxy('HTTP_PROXY'),
    httpsProxy: proxy('HTTPS_PROXY'),
    noProxy: variables['no_proxy'] ?? variables['NO_PROXY'],
  };
}
