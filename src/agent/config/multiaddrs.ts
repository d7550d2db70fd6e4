import { isIP, isIPv4, isIPv6 } from 'node:net';
import { isHost, parsePort } from '../../registry/hosts.ts';

/**
 * Base58 (peer ids of the forms `12D3KooW...` and `Qm...`) or base32 CIDs; the transport checks the
 * rest.
 */
const PEER = /^[1-9A-Za-z]{32,80}$/;

/** Whether the text has the form of a peer id. */
export function isPeer(text: string): boolean {
  return PEER.test(text);
}

/**
 * Whether the text is `/ip4|ip6/ADDRESS/tcp/PORT`. The agent listens on it and announces it to
 * others, so port 0 is not valid.
 */
export function isListenMultiaddr(text: string): boolean {
  const parts = text.split('/');
  return parts.length === 5 && /^ip[46]$/.test(parts[1] ?? '') && isTcpMultiaddr(parts);
}

/**
 * Whether the text is `/ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT`, with or without `/p2p/PEER` after it:
 * an address to dial.
 */
export function isDialMultiaddr(text: string): boolean {
  const parts = text.split('/');
  if (!isTcpMultiaddr(parts)) return false;
  if (parts.length === 5) return true;
  return parts.length === 7 && parts[5] === 'p2p' && isPeer(parts[6] ?? '');
}

/** Whether the text is `dns:NAME:PORT`: the agents behind all addresses of a name. */
export function isDnsRoot(text: string): boolean {
  const match = /^dns:([^:]+):([0-9]+)$/.exec(text);
  return match !== null && isHost(match[1] ?? '') && (parsePort(match[2] ?? '') ?? 0) > 0;
}

function isTcpMultiaddr(parts: readonly string[]): boolean {
  const [empty, protocol = '', host = '', tcp, portText = ''] = parts;
  const port = parsePort(portText);
  if (empty !== '' || tcp !== 'tcp' || port === undefined || port === 0) return false;
  if (protocol === 'ip4') return isIPv4(host);
  if (protocol === 'ip6') return isIPv6(host);
  return /^dns[46]?$/.test(protocol) && isIP(host) === 0 && isHost(host);
}
