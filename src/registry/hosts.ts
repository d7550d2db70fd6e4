import { isIPv4, isIPv6 } from 'node:net';

/** Where a server listens. Port 0 lets the system choose. */
export interface ListenAddress {
  readonly host: string;
  readonly port: number;
}

/** DNS names are at most 253 characters (RFC 1035, section 2.3.4, in text form). */
const HOST_NAME =
  /^(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?$/;
const PORT = /^(0|[1-9][0-9]{0,4})$/;
const PORT_MAX = 65_535;

/** Reads `host:port`; IPv6 hosts stand in brackets. Undefined when the text is no such thing. */
export function parseListenAddress(text: string): ListenAddress | undefined {
  const match = /^(?:\[([^\]]+)\]|([^:[\]]+)):([0-9]+)$/.exec(text);
  if (match === null) return undefined;
  const [, bracketed, plain, portText = ''] = match;
  const port = parsePort(portText);
  if (port === undefined) return undefined;
  if (bracketed !== undefined) return isIPv6(bracketed) ? { host: bracketed, port } : undefined;
  return plain !== undefined && isHost(plain) ? { host: plain, port } : undefined;
}

/** `http://host:port` of a server, with brackets around an IPv6 host. */
export function httpAddress(address: ListenAddress): string {
  return `http://${isIPv6(address.host) ? `[${address.host}]` : address.host}:${address.port}`;
}

/**
 * Whether the text is `host` or `host:port`, an IPv6 host in brackets: how image references, origin
 * URLs and the configuration name a registry. The one grammar of all of them.
 */
export function isRegistryHost(text: string): boolean {
  if (isHost(text) || isIPv6(/^\[(.*)\]$/.exec(text)?.[1] ?? '')) return true;
  const address = parseListenAddress(text);
  return address !== undefined && address.port > 0;
}

/** Whether the text is `http[s]://[USER[:PASSWORD]@]HOST[:PORT]`: a proxy. */
export function isProxyUrl(text: string): boolean {
  const match = /^https?:\/\/(?:([^/?#@]*)@)?([^/?#@]+)\/?$/.exec(text);
  if (match === null || !isRegistryHost(match[2] ?? '')) return false;
  try {
    decodeURIComponent(match[1] ?? '');
    return true;
  } catch {
    return false;
  }
}

/** Whether connections from this address come from this host itself. */
export function isLoopback(address: string): boolean {
  return address === '::1' || /^(::ffff:)?127\.[0-9.]+$/.test(address);
}

/** Whether the text is a DNS name or an IPv4 address. */
export function isHost(text: string): boolean {
  // Four numbers are an address or a mistake, never a name.
  return isIPv4(text) || (HOST_NAME.test(text) && !/^[0-9.]+$/.test(text));
}

/** Reads a port in plain decimal; undefined when the text is no such thing. */
export function parsePort(text: string): number | undefined {
  return PORT.test(text) && Number(text) <= PORT_MAX ? Number(text) : undefined;
}
