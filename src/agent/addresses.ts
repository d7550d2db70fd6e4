import { isIP, isIPv4, isIPv6 } from 'node:net';

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

/** Base58 (peer ids of the forms `12D3KooW...` and `Qm...`) or base32 CIDs; the transport checks the rest. */
const PEER = /^[1-9A-Za-z]{32,80}$/;

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

/** Whether the text is `/ip4|ip6/ADDRESS/tcp/PORT`: something to listen on, and to tell others, so that port 0 will not do. */
export function isListenMultiaddr(text: string): boolean {
  const parts = text.split('/');
  return parts.length === 5 && /^ip[46]$/.test(parts[1] ?? '') && isTcpMultiaddr(parts);
}

/** Whether the text is `/ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT`, perhaps followed by `/p2p/PEER`: something to dial. */
export function isDialMultiaddr(text: string): boolean {
  const parts = text.split('/');
  if (!isTcpMultiaddr(parts)) return false;
  if (parts.length === 5) return true;
  return parts.length === 7 && parts[5] === 'p2p' && PEER.test(parts[6] ?? '');
}

/** Whether the text is `dns:NAME:PORT`: the agents behind all addresses of a name. */
export function isDnsRoot(text: string): boolean {
  const match = /^dns:([^:]+):([0-9]+)$/.exec(text);
  return match !== null && isHost(match[1] ?? '') && (parsePort(match[2] ?? '') ?? 0) > 0;
}

/** Whether the text is `host` or `host:port`, as registries are named in image references. */
export function isRegistryHost(text: string): boolean {
  if (isHost(text)) return true;
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

function isTcpMultiaddr(parts: readonly string[]): boolean {
  const [empty, protocol = '', host = '', tcp, portText = ''] = parts;
  const port = parsePort(portText);
  if (empty !== '' || tcp !== 'tcp' || port === undefined || port === 0) return false;
  if (protocol === 'ip4') return isIPv4(host);
  if (protocol === 'ip6') return isIPv6(host);
  return /^dns[46]?$/.test(protocol) && isIP(host) === 0 && HOST_NAME.test(host);
}

function isHost(text: string): boolean {
  // Four numbers are an address or a mistake, never a name.
  return isIPv4(text) || (HOST_NAME.test(text) && !/^[0-9.]+$/.test(text));
}

function parsePort(text: string): number | undefined {
  return PORT.test(text) && Number(text) <= PORT_MAX ? Number(text) : undefined;
}
