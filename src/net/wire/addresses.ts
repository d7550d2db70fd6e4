import type { HostAddress } from '../../tree/messages.ts';
import { ADDRESSES_MAX } from '../limits.ts';

const OCTET = '(?:25[0-5]|2[0-4]\\d|1?\\d?\\d)';
const IP4 = `ip4/${OCTET}(?:\\.${OCTET}){3}`;
const IP6 = 'ip6/[0-9a-fA-F:]{2,39}(?:\\d{1,3}(?:\\.\\d{1,3}){3})?';
const ADDRESS = new RegExp(`^/(?:${IP4}|${IP6})(/tcp/([1-9]\\d{0,4}))$`);
const PORT_MAX = 65_535;

/**
 * Whether the text is `/ip4|ip6/ADDRESS/tcp/PORT`: the one form in which hosts are told to each
 * other, so that no name is looked up for a peer.
 */
export function isTcpAddress(text: string): boolean {
  const match = ADDRESS.exec(text);
  return match !== null && Number(match[2]) <= PORT_MAX;
}

/**
 * The addresses of a host, with the one that it is seen under first, on the port that it named
 * for that family: of all that a host has, this one is known to lead to it. An announced one is the
 * operator's word. Loopback and link-local addresses lead there from one place alone: they are not
 * told.
 */
export function withObserved(
  host: HostAddress & { readonly announced?: boolean | undefined },
  observed: string,
): readonly string[] {
  const ip = ipOf(observed);
  const family = ip.includes(':') ? 'ip6' : 'ip4';
  const named = host.addresses.find((each) => each.startsWith(`/${family}/`)) ?? host.addresses[0];
  const tcp = named === undefined ? undefined : /\/tcp\/\d+$/.exec(named)?.[0];
  if (host.announced === true || tcp === undefined || !/^[0-9a-fA-F:.]+$/.test(ip)) {
    return host.addresses;
  }
  if (/^127\.|^::1$|^fe[89ab]/i.test(ip)) return host.addresses;
  const seen = `/${family}/${ip}${tcp}`;
  const others = host.addresses.filter((address) => address !== seen);
  return [seen, ...others].slice(0, ADDRESSES_MAX);
}

/** The IP address of a multiaddr; the text itself where there is none. An IPv4 address in IPv6's form is one of IPv4. */
export function ipOf(text: string): string {
  const ip = /^\/ip[46]\/([^/]+)/.exec(text)?.[1] ?? text;
  return /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(ip)?.[1] ?? ip;
}

/** The /64 of an IPv6 address, of which one machine may have all addresses; undefined of any other text. */
export function networkOf(ip: string): string | undefined {
  if (!/^[0-9a-fA-F:]+$/.test(ip) || !ip.includes(':')) return undefined;
  const [head = '', tail] = ip.split('::');
  const first = head === '' ? [] : head.split(':');
  const last = tail === undefined || tail === '' ? [] : tail.split(':');
  const zeros = Array<string>(Math.max(0, 8 - first.length - last.length)).fill('0');
  const groups = [...first, ...zeros, ...last].slice(0, 4);
  return `${groups.map((group) => Number.parseInt(group, 16).toString(16)).join(':')}::/64`;
}
