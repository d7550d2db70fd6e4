import type {
  Connection,
  ConnectionGater,
  MultiaddrConnection,
  MultiaddrConnectionTimeline,
  StreamMessageEvent,
} from '@libp2p/interface';
import type { Multiaddr } from '@multiformats/multiaddr';
import type { Clock } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import { peerId, type PeerId } from '../../util/peer-id.ts';
import { Bans } from './bans.ts';
import {
  ADDRESS_FAILURES_MAX,
  UNADMITTED_BYTES_MAX,
  UNADMITTED_MAX,
  UNADMITTED_PER_ADDRESS_MAX,
} from '../limits.ts';
import type { NetMetrics } from '../metrics.ts';

/** An inbound connection that has proved nothing yet. */
interface Stranger {
  readonly address: string;
  /** Its id, once the handshake of the connection gives it. */
  peer?: PeerId;
  /** No longer counts its bytes. */
  release: () => void;
}

/**
 * Keeps strangers cheap: bounds the inbound connections that are not admitted yet, in all and by
 * address, and what they may send, and turns away those that failed before. Asked by the node
 * before it spends anything on a connection.
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
  /** By the one object that a socket and the connection made of it share. */
  readonly #strangers = new Map<MultiaddrConnectionTimeline, Stranger>();
  readonly #byAddress = new Map<string, number>();
  /** Admitted connections by peer. */
  readonly #admitted = new Map<PeerId, number>();

  constructor(components: {
    readonly clock: Clock;
    readonly logger: Logger;
    readonly metrics: NetMetrics;
  }) {
    this.#logger = components.logger;
    this.#metrics = components.metrics;
    this.#peerBans = new Bans(components, { failuresMax: 0 });
    this.#addressBans = new Bans(components, { failuresMax: ADDRESS_FAILURES_MAX });
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

  /** The connection's peer has proved the key: it counts no more. */
  admit(connection: Connection, peer: PeerId): void {
    this.#peerBans.forgive(peer);
    this.#admitted.set(peer, (this.#admitted.get(peer) ?? 0) + 1);
    const stranger = this.#leave(connection.timeline);
    if (stranger !== undefined) this.#addressBans.forgive(stranger.address);
  }

  /** An admitted connection of the peer has ended. */
  part(peer: PeerId): void {
    const left = (this.#admitted.get(peer) ?? 0) - 1;
    if (left > 0) this.#admitted.set(peer, left);
    else this.#admitted.delete(peer);
  }

  /** The peer has failed to prove the key: it is turned away for a while. */
  banPeer(peer: PeerId): void {
    this.#peerBans.fail(peer);
  }

  #takes(socket: MultiaddrConnection): boolean {
    const address = hostOf(socket.remoteAddr);
    if (this.#addressBans.isBanned(address) || socket.status !== 'open') return false;
    const siblings = this.#byAddress.get(address) ?? 0;
    if (this.#strangers.size >= UNADMITTED_MAX || siblings >= UNADMITTED_PER_ADDRESS_MAX) {
      return false;
    }
    this.#byAddress.set(address, siblings + 1);
    this.#strangers.set(socket.timeline, { address, release: () => {} });
    socket.addEventListener('close', () => this.#onClose(socket));
    return true;
  }

  /**
   * A connection that ends without an admission is a failure of its address, whatever ended it; but
   * not a second connection of an admitted peer, which the node that dialled closes by itself.
   */
  #onClose(socket: MultiaddrConnection): void {
    const stranger = this.#leave(socket.timeline);
    if (stranger === undefined) return;
    if (stranger.peer !== undefined && this.#admitted.has(stranger.peer)) return;
    const banMs = this.#addressBans.fail(stranger.address);
    if (banMs === 0) return;
    this.#logger.warn(
      { address: stranger.address, seconds: banMs / 1000 },
      'turning an address away: too many of its connections did not prove the cluster key',
    );
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
    const siblings = (this.#byAddress.get(stranger.address) ?? 0) - 1;
    if (siblings > 0) this.#byAddress.set(stranger.address, siblings);
    else this.#byAddress.delete(stranger.address);
    return stranger;
  }

  #counted(refused: boolean): boolean {
    if (refused) this.#metrics.admission.inc({ result: 'refused' });
    return refused;
  }
}

/**
 * The address without its port. Hosts of one network share an IPv6 prefix, so each address is one
 * of its own.
 */
function hostOf(address: Multiaddr): string {
  const ip = address.getComponents().find(({ name }) => name === 'ip4' || name === 'ip6');
  return ip?.value ?? address.toString();
}
