import { isIP, isIPv4 } from 'node:net';

/** Host headers that were accepted, remembered as they are. */
const KNOWN_MAX = 64;

/**
 * Tells whether a request means this server by its Host header. A page in a browser of this host
 * reaches it under a name of its own that resolves to 127.0.0.1 (DNS rebinding), and would read
 * whatever this host may read.
 */
export class HostCheck {
  readonly #host: string;
  readonly #known = new Set<string>();

  /** `host`: where the server listens, as the configuration has it. */
  constructor(init: { readonly host: string }) {
    this.#host = init.host.toLowerCase();
  }

  /** HTTP/1.0 needs no Host, and browsers speak no HTTP/1.0. */
  accepts(header: string | undefined): boolean {
    if (header === undefined || this.#known.has(header)) return true;
    const [, bracketed, plain = ''] = /^(?:\[([^\]]*)\]|([^:]*))(?::[0-9]*)?$/.exec(header) ?? [];
    const isOurs = this.#isOurs((bracketed ?? plain).toLowerCase());
    if (isOurs && this.#known.size < KNOWN_MAX) this.#known.add(header);
    return isOurs;
  }

  #isOurs(name: string): boolean {
    if (name === 'localhost' || name === this.#host || name === '::1') return true;
    if (isIPv4(name) && name.startsWith('127.')) return true;
    // Of a server that listens everywhere any address may be meant; an address is not resolved, and
    // so not rebound.
    const isEverywhere = this.#host === '0.0.0.0' || this.#host === '::';
    return isEverywhere && isIP(name) !== 0;
  }
}
