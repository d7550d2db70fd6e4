import type {
  Connection,
  ConnectionGater,
  MultiaddrConnection,
  MultiaddrConnectionTimeline,
  StreamMessageEvent,
} from '@libp2p/interface';
import type { Clock } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import { Counts } from '../../util/counts.ts';
import { peerId, type PeerId } from '../../util/peer-id.ts';
import { ipOf, networkOf } from '../wire/addresses.ts';
import { Bans } from './bans.ts';
import {
  ADDRESS_FAILURES_MAX,
  IDENTITIES_PER_ADDRESS_MAX,
  NETWORK_FAILURES_MAX,
  UNADMITTED_BYTES_MAX,
  UNADMITTED_MAX,
  UNADMITTED_PER_ADDRESS_MAX,
  UNADMITTED_PER_NETWORK_MAX,
} from '../limits.ts';
import type { NetMetrics } from '../metrics.ts';

/** A place where connections come from: an address, or a network of IPv6. */
interface Origin {
  readonly name: string;
  readonly bans: Bans;
  readonly strangersMax: number;
}

/** An inbound connection that has proved nothing yet. */
interface Stranger {
  readonly address: string;
  readonly origins: readonly Origin[];
  /** Who it is, once the handshake of the connection says so. */
  peer?: PeerId;
  /** It has proved the key, and is no failure of its address. */
  proved?: boolean;
  /** No longer counts its bytes. */
  release: () => void;
}

/**
 * Keeps strangers cheap: bounds the inbound connections that are not admitted yet, in all, by address and by /64 of IPv6, and what
 * they may send, and turns those away who failed before. Asked by the node before it spends anything on a connection. Bounds the
 * identities that are admitted of one address too.
 *
 * An admission forgives its address, so that a host with a wrong key does not lock out the others
 * behind one NAT for long.
 */
export class Door {
  readonly gater: ConnectionGater;
  readonly #logger: Logger;
  readonly #metrics: NetMetrics;
  readonly #peerBans: Bans;
  readonly #addressBans: Bans;
  readonly #networkBans: Bans;
  /** By the one object that a socket and the connection made of it share. */
  readonly #strangers = new Map<MultiaddrConnectionTimeline, Stranger>();
  /** Strangers by the name of their origin. */
  readonly #byOrigin = new Counts<string>();
  /** Inbound connections that are admitted, and where they come from. */
  readonly #inside = new Map<MultiaddrConnectionTimeline, string>();
  /** Connections of each identity that is admitted, by address. */
  readonly #identities = new Map<string, Counts<PeerId>>();
  /** Admitted connections by peer. */
  readonly #admitted = new Counts<PeerId>();

  constructor(components: {
    readonly clock: Clock;
    readonly logger: Logger;
    readonly metrics: NetMetrics;
  }) {
    this.#logger = components.logger;
    this.#metrics = components.metrics;
    this.#peerBans = new Bans(components, { failuresMax: 0 });
    this.#addressBans = new Bans(components, { failuresMax: ADDRESS_FAILURES_MAX });
    this.#networkBans = new Bans(components, { failuresMax: NETWORK_FAILURES_MAX });
    this.gater = {
      denyInboundConnection: (socket) => this.#counted(!this.#takes(socket)),
      denyInboundEncryptedConnection: (peer) =>
        this.#counted(this.#peerBans.isBanned(peer.toString())),
      denyInboundUpgradedConnection: (peer, socket) => {
        this.#countBytes(socket, peerId(peer.toString()));
        return false;
      },
    };
  }

  /**
   * The connection's peer has proved the key: it counts no more as a stranger. False when too many
   * others of its address are admitted; it then stays one.
   */
  admit(connection: Connection, peer: PeerId): boolean {
    const { timeline } = connection;
    const entering = this.#strangers.get(timeline);
    if (entering !== undefined && !this.#takeIdentity(entering.address, peer)) {
      entering.proved = true;
      return false;
    }
    this.#peerBans.forgive(peer);
    this.#admitted.add(peer);
    const stranger = this.#leave(timeline);
    if (stranger === undefined) return true;
    this.#inside.set(timeline, stranger.address);
    for (const { name, bans } of stranger.origins) bans.forgive(name);
    return true;
  }

  /** An admitted connection of the peer has ended. */
  part(connection: Connection, peer: PeerId): void {
    this.#admitted.remove(peer);
    const address = this.#inside.get(connection.timeline);
    this.#inside.delete(connection.timeline);
    const identities = address === undefined ? undefined : this.#identities.get(address);
    if (address === undefined || identities === undefined) return;
    identities.remove(peer);
    if (identities.size === 0) this.#identities.delete(address);
  }

  /** The peer has failed to prove the key: it is turned away for a while. */
  banPeer(peer: PeerId): void {
    this.#peerBans.fail(peer);
  }

  #takes(socket: MultiaddrConnection): boolean {
    const address = ipOf(socket.remoteAddr.toString());
    const origins = this.#originsOf(address);
    if (socket.status !== 'open' || this.#strangers.size >= UNADMITTED_MAX) return false;
    if (origins.some(({ name, bans }) => bans.isBanned(name))) return false;
    const isFull = ({ name, strangersMax }: Origin): boolean =>
      this.#byOrigin.of(name) >= strangersMax;
    if (origins.some(isFull)) return false;
    for (const { name } of origins) this.#byOrigin.add(name);
    this.#strangers.set(socket.timeline, { address, origins, release: () => {} });
    socket.addEventListener('close', () => this.#onClose(socket));
    return true;
  }

  /** Hosts of one network share an IPv6 prefix, so each address counts by itself, and the network beside it. */
  #originsOf(address: string): readonly Origin[] {
    const own = {
      name: address,
      bans: this.#addressBans,
      strangersMax: UNADMITTED_PER_ADDRESS_MAX,
    };
    const network = networkOf(address);
    if (network === undefined) return [own];
    const bans = this.#networkBans;
    return [own, { name: network, bans, strangersMax: UNADMITTED_PER_NETWORK_MAX }];
  }

  #takeIdentity(address: string, peer: PeerId): boolean {
    const identities = this.#identities.get(address) ?? new Counts<PeerId>();
    if (!identities.has(peer) && identities.size >= IDENTITIES_PER_ADDRESS_MAX) return false;
    this.#identities.set(address, identities);
    identities.add(peer);
    return true;
  }

  /**
   * A connection that ends without an admission is a failure of its address, whatever ended it; but
   * not a second connection of an admitted peer, which the node that dialled closes by itself.
   */
  #onClose(socket: MultiaddrConnection): void {
    const stranger = this.#leave(socket.timeline);
    if (stranger === undefined || stranger.proved === true) return;
    if (stranger.peer !== undefined && this.#admitted.has(stranger.peer)) return;
    for (const { name, bans } of stranger.origins) {
      const banMs = bans.fail(name);
      if (banMs === 0) continue;
      this.#logger.warn(
        { address: name, seconds: banMs / 1000 },
        'turning an address away: too many of its connections did not prove the cluster key',
      );
    }
  }

  /**
   * From here on the node listens to the socket, so that listening too takes nothing away from it.
   */
  #countBytes(socket: MultiaddrConnection, peer: PeerId): void {
    const stranger = this.#strangers.get(socket.timeline);
    if (stranger === undefined) return;
    stranger.peer = peer;
    let byteCount = 0;
    const count = ({ data }: StreamMessageEvent): void => {
      byteCount += data.byteLength;
      if (byteCount <= UNADMITTED_BYTES_MAX) return;
      socket.abort(new Error(`more than ${UNADMITTED_BYTES_MAX} bytes before the admission`));
    };
    socket.addEventListener('message', count);
    stranger.release = () => socket.removeEventListener('message', count);
  }

  #leave(timeline: MultiaddrConnectionTimeline): Stranger | undefined {
    const stranger = this.#strangers.get(timeline);
    if (stranger === undefined) return undefined;
    this.#strangers.delete(timeline);
    stranger.release();
    for (const { name } of stranger.origins) this.#byOrigin.remove(name);
    return stranger;
  }

  #counted(refused: boolean): boolean {
    if (refused) this.#metrics.admission.inc({ result: 'refused' });
    return refused;
  }
}
