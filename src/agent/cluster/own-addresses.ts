import { createSocket } from 'node:dgram';
import { isIP } from 'node:net';
import { networkInterfaces } from 'node:os';
import { ADDRESSES_MAX } from '../../net/limits.ts';
import type { Clock } from '../../runtime/clock.ts';
import { within } from '../../runtime/deadline.ts';
import type { Logger } from '../../runtime/logger.ts';
import { orAbort } from '../../util/or-abort.ts';

/** For a name of a root to be looked up. */
const SOURCE_MS_MAX = 1_000;

/** What this host tells others of where it is. */
export interface OwnAddresses {
  readonly addresses: readonly string[];
  /**
   * They are the operator's choice: an address that others see it under does not go before them.
   */
  readonly announced: boolean;
}

/** An address of this host. */
interface Detected {
  readonly family: 'ip4' | 'ip6';
  readonly address: string;
}

interface Components {
  readonly clock: Clock;
  readonly logger: Logger;
  /** Addresses of this host's interfaces that are not loopback. */
  readonly detect?: () => readonly Detected[];
  /** The address that this host sends from to another one. Rejects when there is no way to it. */
  readonly sourceTo?: (host: string) => Promise<string>;
}

/**
 * The multiaddrs that other agents are told to dial: `p2p.announce`, else those listened on. A
 * wildcard stands for every address of this host that is not loopback, those by which it reaches
 * the roots first; of more than a message takes the rest is left out, with a warning.
 */
export async function ownAddresses(
  components: Components,
  config: {
    readonly listen: readonly string[];
    readonly announce: readonly string[];
    readonly roots: readonly string[];
  },
): Promise<OwnAddresses> {
  const { listen, announce } = config;
  if (announce.length > 0) return { addresses: announce, announced: true };
  const wildcard = /^\/(ip4\/0\.0\.0\.0|ip6\/::)(\/tcp\/\d+)$/;
  if (!listen.some((address) => wildcard.test(address))) {
    return { addresses: cut(components, listen), announced: true };
  }
  const sources = await sourcesTo(components, config.roots);
  const detected = (components.detect ?? interfaceAddresses)().filter(isTellable);
  const addresses = listen.flatMap((address) => {
    const match = wildcard.exec(address);
    if (match === null) return [address];
    const [, host = '', tcp = ''] = match;
    return detected
      .filter(({ family }) => host.startsWith(family))
      .map((each) => `/${each.family}/${each.address}${tcp}`);
  });
  const rank = (address: string): number => {
    const host = address.split('/')[2] ?? '';
    if (sources.has(host)) return 0;
    return host.startsWith('169.254.') ? 2 : 1;
  };
  const ranked = [...new Set(addresses)].toSorted((a, b) => rank(a) - rank(b));
  return { addresses: cut(components, ranked), announced: false };
}

/**
 * Keeps the addresses of a card as interfaces come and go. Each call looks; true when they are
 * others than before.
 */
export function addressWatch(
  components: Components,
  config: Parameters<typeof ownAddresses>[1],
  card: { addresses: readonly string[] },
): () => Promise<boolean> {
  const look = (): string =>
    JSON.stringify((components.detect ?? interfaceAddresses)().filter(isTellable));
  let seen = look();
  return async () => {
    const now = look();
    if (now === seen) return false;
    seen = now;
    const { addresses } = await ownAddresses(components, config);
    if (addresses.join() === card.addresses.join()) return false;
    const before = card.addresses;
    card.addresses = addresses;
    components.logger.info({ before, addresses }, 'the addresses of this host changed');
    return true;
  };
}

/** A link-local address of IPv6 says nothing without an interface of the host that dials. */
function isTellable({ family, address }: Detected): boolean {
  return family === 'ip4' || !/^fe[89ab]/i.test(address);
}

function cut({ logger }: Components, addresses: readonly string[]): readonly string[] {
  const told = addresses.slice(0, ADDRESSES_MAX);
  if (told.length < addresses.length) {
    const fields = { told, left: addresses.slice(ADDRESSES_MAX) };
    logger.warn(
      fields,
      `this host has more than ${ADDRESSES_MAX} addresses, and others are told of the first ` +
        'ones: name those that they reach in p2p.announce',
    );
  }
  return told;
}

/** The addresses that this host sends from to the roots of the configuration. */
async function sourcesTo(
  { clock, sourceTo = sourceAddress }: Components,
  roots: readonly string[],
): Promise<ReadonlySet<string>> {
  const hosts = new Set(
    roots.flatMap((root) => {
      const [, name, host] = /^dns:([^:]+)|^\/(?:ip[46]|dns[46]?)\/([^/]+)/.exec(root) ?? [];
      return name ?? host ?? [];
    }),
  );
  const found = await Promise.allSettled(
    [...hosts].map((host) =>
      within(clock, SOURCE_MS_MAX, (signal) => orAbort(sourceTo(host), signal)),
    ),
  );
  return new Set(found.flatMap((each) => (each.status === 'fulfilled' ? [each.value] : [])));
}

/** A name may have addresses of one family alone, and this host too. */
async function sourceAddress(host: string): Promise<string> {
  if (isIP(host) !== 0) return sourceOf(host, isIP(host) === 6 ? 'udp6' : 'udp4');
  return Promise.any([sourceOf(host, 'udp4'), sourceOf(host, 'udp6')]);
}

/** Asks the system for the route: connecting a UDP socket sends nothing. */
function sourceOf(host: string, type: 'udp4' | 'udp6'): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = createSocket(type);
    socket.unref();
    socket.once('error', (error) => {
      socket.close();
      reject(error);
    });
    socket.connect(9, host, () => {
      const { address } = socket.address();
      socket.close();
      resolve(address);
    });
  });
}

function interfaceAddresses(): readonly Detected[] {
  return Object.values(networkInterfaces())
    .flatMap((entries) => entries ?? [])
    .filter(({ internal }) => !internal)
    .map(({ family, address }) => ({ family: family === 'IPv4' ? 'ip4' : 'ip6', address }));
}
