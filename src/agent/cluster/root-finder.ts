import { Resolver } from 'node:dns/promises';
import { isIPv6 } from 'node:net';
import { publicKeyOf } from '../../net/node/identity.ts';
import type { Clock, Timer } from '../../runtime/clock.ts';
import { within } from '../../runtime/deadline.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { HostAddress } from '../../tree/messages.ts';
import { errorText } from '../../util/errors.ts';
import { peerId, type PeerId } from '../../util/peer-id.ts';

/**
 * How often names are looked up again, and addresses asked who answers there. While an entry is not
 * found, sooner: after a second, then after twice the time each time.
 */
const REFRESH_MS = 30_000;
const REFRESH_MS_UNKNOWN = 1_000;

/** For a connection and its handshake. */
const IDENTIFY_MS_MAX = 5_000;

/** Addresses that one name may stand for. */
const ADDRESSES_MAX = 64;

/** A root, with the key that its attestations are checked with. */
export interface FoundRoot extends HostAddress {
  readonly publicKey: Uint8Array;
  /**
   * How it is known: the configuration names its id, it showed a certificate, or it only answered
   * at the address.
   */
  readonly basis: 'id' | 'certificate' | 'address';
  readonly certificate?: Uint8Array;
}

interface Identifier {
  /** The peer that answers at a multiaddr. */
  identify(address: string, signal: AbortSignal): Promise<PeerId>;
  /** What a connected peer showed as a root, unchecked. */
  certificateOf(peer: PeerId): Uint8Array | undefined;
}

/** Whom to take for a root. */
interface Trust {
  /**
   * Whether the authority of the configuration says that the host is a root; undefined without an
   * authority.
   */
  isCertified(peer: PeerId, certificate: Uint8Array | undefined): boolean | undefined;
  isUntrusted(peer: PeerId): boolean;
}

/**
 * Finds the roots of the configuration: those named with their peer id at once; those known by
 * address by asking who answers there; `dns:NAME:PORT` by all addresses of the name. With an
 * authority, the peer that answers at an address must show its certificate; without one, any peer
 * that answers at the address of a root is that root.
 *
 * Life: constructed -> `start()` -> `onLook` is called at every look, `onChange` whenever the set
 * differs -> `stop()`.
 */
export class RootFinder {
  readonly #parts: { transport: Identifier; clock: Clock; logger: Logger };
  readonly #entries: readonly string[];
  readonly #self: FoundRoot | undefined;
  readonly #trust: Trust | undefined;
  readonly #onChange: (roots: readonly FoundRoot[]) => void;
  readonly #onLook: (roots: readonly FoundRoot[]) => void;
  readonly #stop = new AbortController();
  readonly #resolver = new Resolver({ timeout: 2_000, tries: 2 });
  /** Found once at this address, and believed until another answers there. */
  readonly #found = new Map<string, FoundRoot>();
  readonly #warned = new Set<string>();
  #known = '';
  #missing = false;
  #isComplete = false;
  #delayMs = REFRESH_MS_UNKNOWN;
  #timer: Timer | undefined;

  constructor(
    components: { transport: Identifier; clock: Clock; logger: Logger },
    init: {
      /** As in the configuration. */
      entries: readonly string[];
      /** This host, when it is a root itself. */
      self: FoundRoot | undefined;
      /** Absent of relays, which vouch for nothing. */
      trust?: Trust;
      onChange: (roots: readonly FoundRoot[]) => void;
      onLook?: (roots: readonly FoundRoot[]) => void;
    },
  ) {
    this.#parts = components;
    this.#entries = init.entries;
    this.#self = init.self;
    this.#trust = init.trust;
    this.#onChange = init.onChange;
    this.#onLook = init.onLook ?? (() => {});
  }

  /** Whether every entry of the configuration was found at the last look. */
  get isComplete(): boolean {
    return this.#isComplete;
  }

  /** The first look; later ones follow by themselves. */
  async start(): Promise<void> {
    await this.#refresh();
  }

  stop(): void {
    this.#stop.abort();
    this.#timer?.cancel();
    this.#resolver.cancel();
  }

  async #refresh(): Promise<void> {
    this.#missing = false;
    const lists = await Promise.all(this.#entries.map((entry) => this.#rootsOf(entry)));
    if (this.#stop.signal.aborted) return;
    const roots = new Map<PeerId, FoundRoot>();
    if (this.#self !== undefined) roots.set(this.#self.peer, this.#self);
    for (const root of lists.flat()) {
      const same = roots.get(root.peer);
      if (root.peer === this.#self?.peer || this.#isUntrusted(root)) continue;
      const addresses = [...new Set([...(same?.addresses ?? []), ...root.addresses])];
      roots.set(root.peer, { ...(same?.basis === 'id' ? same : root), addresses });
    }
    const sorted = [...roots.values()].sort((a, b) => (a.peer < b.peer ? -1 : 1));
    const text = JSON.stringify(sorted.map(({ peer, addresses }) => [peer, addresses]));
    // A name that resolves to nothing for a moment does not take the roots away.
    if (text !== this.#known && sorted.length > 0) {
      this.#known = text;
      this.#onChange(sorted);
    }
    this.#isComplete = !this.#missing;
    this.#onLook(sorted);
    const isAmiss = this.#missing || sorted.length === 0;
    const delayMs = isAmiss ? this.#delayMs : REFRESH_MS;
    this.#delayMs = isAmiss ? Math.min(REFRESH_MS, 2 * this.#delayMs) : REFRESH_MS_UNKNOWN;
    const fixed = this.#entries.every((entry) => entry.includes('/p2p/'));
    if (fixed) return;
    this.#timer = this.#parts.clock.setTimer(delayMs, () => void this.#refresh());
  }

  async #rootsOf(entry: string): Promise<readonly FoundRoot[]> {
    const match = /^(.+)\/p2p\/([^/]+)$/.exec(entry);
    if (match !== null) {
      const root = foundRoot(peerId(match[2] ?? ''), match[1] ?? '', { basis: 'id' });
      if (root === undefined) this.#warn(entry, 'its peer id is not that of an Ed25519 key');
      return root === undefined ? [] : [root];
    }
    const addresses = entry.startsWith('dns:') ? await this.#lookUp(entry) : [entry];
    const others = addresses.filter((address) => this.#self?.addresses.includes(address) !== true);
    const roots = await Promise.all(others.map((address) => this.#identify(address)));
    return roots.filter((root) => root !== undefined);
  }

  async #lookUp(entry: string): Promise<readonly string[]> {
    const [, name = '', port = ''] = entry.split(':');
    const lookUps = [this.#resolver.resolve4(name), this.#resolver.resolve6(name)];
    const results = await Promise.allSettled(lookUps);
    const hosts = results.flatMap((result) => (result.status === 'fulfilled' ? result.value : []));
    if (hosts.length === 0) {
      this.#missing = true;
      this.#warn(entry, 'the name has no address now');
    }
    return hosts
      .slice(0, ADDRESSES_MAX)
      .map((host) => `/${isIPv6(host) ? 'ip6' : 'ip4'}/${host}/tcp/${port}`);
  }

  async #identify(address: string): Promise<FoundRoot | undefined> {
    const { clock, transport } = this.#parts;
    const identify = (signal: AbortSignal): Promise<PeerId> => transport.identify(address, signal);
    try {
      const peer = await within(clock, IDENTIFY_MS_MAX, identify, { signal: this.#stop.signal });
      const root = this.#taken(peer, address);
      if (root === undefined) this.#found.delete(address);
      else this.#found.set(address, root);
      return root;
    } catch (error) {
      this.#missing = true;
      this.#warn(address, errorText(error));
      // It may only be restarting: the trees find out who is alive.
      return this.#found.get(address);
    }
  }

  /** The peer that answers at an address, if it may be a root. */
  #taken(peer: PeerId, address: string): FoundRoot | undefined {
    const certificate = this.#parts.transport.certificateOf(peer);
    const certified = this.#trust?.isCertified(peer, certificate);
    if (certified === true && certificate !== undefined) {
      return foundRoot(peer, address, { basis: 'certificate', certificate });
    }
    if (certified === false) {
      const reason = `${peer} answers there, and shows no certificate of cluster.rootsAuthority`;
      this.#warn(address, reason);
      return undefined;
    }
    if (this.#trust !== undefined) {
      this.#warnOnce(
        'address',
        { address, peer },
        'a root is known by its address alone: any host that answers there with the cluster key ' +
          'can vouch for blocks, and blocks of a root that is away at the start are refused. ' +
          `Write ids into \`roots\` (here ${address}/p2p/${peer}), or set cluster.rootsAuthority`,
      );
    }
    return foundRoot(peer, address, { basis: 'address' });
  }

  #isUntrusted({ peer }: FoundRoot): boolean {
    if (this.#trust?.isUntrusted(peer) !== true) return false;
    this.#warnOnce(peer, { peer }, 'a root of the configuration is in untrustedRoots: left out');
    return true;
  }

  #warnOnce(name: string, fields: Record<string, unknown>, text: string): void {
    if (this.#warned.has(name) || this.#stop.signal.aborted) return;
    this.#warned.add(name);
    this.#parts.logger.warn(fields, text);
  }

  #warn(root: string, reason: string): void {
    if (this.#stop.signal.aborted) return;
    this.#parts.logger.warn({ root, reason }, 'a root of the configuration was not found');
  }
}

function foundRoot(
  peer: PeerId,
  address: string,
  how: Pick<FoundRoot, 'basis' | 'certificate'>,
): FoundRoot | undefined {
  const publicKey = publicKeyOf(peer);
  return publicKey === undefined ? undefined : { peer, addresses: [address], publicKey, ...how };
}
