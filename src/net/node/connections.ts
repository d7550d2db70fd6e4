import type { Connection, PeerId as Libp2pPeerId } from '@libp2p/interface';
import { peerIdFromString } from '@libp2p/peer-id';
import { CODE_P2P, multiaddr, type Multiaddr } from '@multiformats/multiaddr';
import type { Clock } from '../../runtime/clock.ts';
import { jitter, type Random } from '../../runtime/random.ts';
import type { HostAddress } from '../../tree/messages.ts';
import { backoffMs } from '../../util/backoff.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { errorText } from '../../util/errors.ts';
import { orAbort } from '../../util/or-abort.ts';
import type { PeerId } from '../../util/peer-id.ts';
import { SingleFlight } from '../../util/single-flight.ts';
import { within } from '../../runtime/deadline.ts';
import {
  ADDRESS_DIAL_MS,
  ADDRESSES_MAX,
  BACKOFF_MS_MAX,
  BACKOFF_MS_MIN,
  BACKOFF_PEERS_MAX,
  DIAL_MS,
  DIAL_TRIES,
} from '../limits.ts';
import type { NetMetrics } from '../metrics.ts';

/** What is needed of a libp2p node. */
export interface DialingNode {
  getConnections(peer: Libp2pPeerId): Connection[];
  dial(addresses: Multiaddr[], options: { signal: AbortSignal }): Promise<Connection>;
}

/** What is needed of the admission: connections are of no use before it. */
export interface Admitter {
  isAdmitted(connection: Connection): boolean;
  /**
   * Resolves when the connection is admitted; rejects when it will not be, or with the signal's
   * reason.
   */
  admitted(connection: Connection, signal: AbortSignal): Promise<void>;
}

/** Part of `DIAL_MS` that the addresses of a peer share; the rest is for the handshake. */
const DIAL_SHARE = 0.8;

/** Failures of the network itself: trying the same address again at once does not help. */
const FINAL_CODES: ReadonlySet<string> = new Set([
  'ECONNREFUSED',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'EADDRNOTAVAIL',
  'ETIMEDOUT',
  'ENOTFOUND',
  'EAI_AGAIN',
]);

/**
 * Admitted connections to peers: made on demand, shared by all callers, kept. After a failed dial
 * or admission a peer is left alone for a while that doubles with each failure, half more or less;
 * a caller that asks before then is refused at once, since it has other sources.
 */
export class Connections {
  readonly #components: {
    readonly clock: Clock;
    readonly random: Random;
    readonly metrics: NetMetrics;
    readonly node: DialingNode;
    readonly admission: Admitter;
  };
  readonly #stopping = new AbortController();
  readonly #dials = new SingleFlight<PeerId, Connection>();
  readonly #failures = new BoundedMap<PeerId, { readonly count: number; readonly untilMs: number }>(
    { entriesMax: BACKOFF_PEERS_MAX },
  );
  /** The address that led to a peer of several the last time. */
  readonly #led = new BoundedMap<PeerId, string>({ entriesMax: BACKOFF_PEERS_MAX });

  constructor(components: {
    readonly clock: Clock;
    readonly random: Random;
    readonly metrics: NetMetrics;
    readonly node: DialingNode;
    readonly admission: Admitter;
  }) {
    this.#components = components;
  }

  /**
   * An open and admitted connection to the host. Rejects with any error when none can be had, or
   * with the signal's reason.
   */
  async connect(host: HostAddress, signal: AbortSignal): Promise<Connection> {
    signal.throwIfAborted();
    const id = peerIdFromString(host.peer);
    const { node, admission } = this.#components;
    const open = node
      .getConnections(id)
      .find((connection) => connection.status === 'open' && admission.isAdmitted(connection));
    if (open !== undefined) return open;
    if (!this.#dials.has(host.peer)) this.#assertNotBackingOff(host.peer);
    return orAbort(
      this.#dials.run(host.peer, () => this.#dial(host, id)),
      signal,
    );
  }

  /** Ends the dials in flight and refuses new ones. */
  stop(): void {
    this.#stopping.abort(new Error('the transport stops'));
  }

  #assertNotBackingOff(peer: PeerId): void {
    const failure = this.#failures.get(peer);
    const waitMs = (failure?.untilMs ?? 0) - this.#components.clock.nowMs();
    if (failure === undefined || waitMs <= 0) return;
    throw new Error(
      `peer ${peer} is left alone for another ${Math.ceil(waitMs)} ms ` +
        `after ${failure.count} failed dials`,
    );
  }

  async #dial(host: HostAddress, id: Libp2pPeerId): Promise<Connection> {
    const { clock, admission } = this.#components;
    const dial = async (signal: AbortSignal): Promise<Connection> => {
      // The node returns the connection that is there, when the peer dialled and is not admitted
      // yet.
      const addresses = dialAddresses(host, id, this.#led.get(host.peer));
      const connection = await this.#tryDials(host.peer, addresses, signal);
      await admission.admitted(connection, signal);
      return connection;
    };
    try {
      const connection = await within(clock, DIAL_MS, dial, { signal: this.#stopping.signal });
      this.#failures.delete(host.peer);
      return connection;
    } catch (error) {
      this.#noteFailure(host.peer);
      throw error;
    }
  }

  async #tryDials(
    peer: PeerId,
    addresses: readonly Multiaddr[],
    signal: AbortSignal,
  ): Promise<Connection> {
    for (let tries = 1; ; tries++) {
      try {
        return await this.#dialEach(peer, addresses, signal);
      } catch (error) {
        if (tries >= DIAL_TRIES || signal.aborted || isFinal(error)) throw error;
      }
      await this.#components.clock.sleep(this.#pauseMs(tries), signal);
    }
  }

  /**
   * One address after the other, each for its share of the time: behind some that swallow what is
   * sent there comes one that leads to the host.
   */
  async #dialEach(
    peer: PeerId,
    addresses: readonly Multiaddr[],
    signal: AbortSignal,
  ): Promise<Connection> {
    const { clock, node } = this.#components;
    const [only] = addresses;
    if (only !== undefined && addresses.length === 1) return node.dial([only], { signal });
    const shareMs = Math.min(ADDRESS_DIAL_MS, (DIAL_SHARE * DIAL_MS) / addresses.length);
    const errors: unknown[] = [];
    for (const address of addresses) {
      try {
        const dial = (limit: AbortSignal) => node.dial([address], { signal: limit });
        const connection = await within(clock, shareMs, dial, { signal });
        this.#led.set(peer, address.decapsulateCode(CODE_P2P).toString());
        return connection;
      } catch (error) {
        if (signal.aborted) throw error;
        errors.push(error);
      }
    }
    throw new AggregateError(errors, errors.map(errorText).join('; '));
  }

  #noteFailure(peer: PeerId): void {
    this.#components.metrics.dialFailed.inc({});
    const count = (this.#failures.get(peer)?.count ?? 0) + 1;
    const untilMs = this.#components.clock.nowMs() + this.#pauseMs(count);
    this.#failures.set(peer, { count, untilMs });
  }

  /** Doubles with the failures; half more or less, so that many hosts do not come back in step. */
  #pauseMs(failureCount: number): number {
    const pauseMs = backoffMs(failureCount, BACKOFF_MS_MIN, BACKOFF_MS_MAX);
    return jitter(this.#components.random, pauseMs, 0.5);
  }
}

/**
 * The usable addresses of a host, each with the peer id that must answer there: the one that led to
 * it the last time first.
 */
function dialAddresses(host: HostAddress, id: Libp2pPeerId, led: string | undefined): Multiaddr[] {
  const told = host.addresses.slice(0, ADDRESSES_MAX);
  const ordered = [...told.filter((each) => each === led), ...told.filter((each) => each !== led)];
  const addresses = ordered.flatMap((text) => {
    try {
      return [multiaddr(text).decapsulateCode(CODE_P2P).encapsulate(`/p2p/${id.toString()}`)];
    } catch {
      return [];
    }
  });
  if (addresses.length > 0) return addresses;
  throw new Error(
    `peer ${host.peer} has no usable address among ${JSON.stringify(host.addresses)}; ` +
      `/ip4|ip6|dns.../tcp/PORT is needed`,
  );
}

function isFinal(error: unknown): boolean {
  if (error instanceof AggregateError) return error.errors.every(isFinal);
  const { code, name } = error as { code?: unknown; name?: unknown };
  if (name === 'TimeoutError' || name === 'AbortError') return true;
  return typeof code === 'string' && FINAL_CODES.has(code);
}
