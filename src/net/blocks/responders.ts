import type { Connection, Stream } from '@libp2p/interface';
import type { Clock, Timer } from '../../runtime/clock.ts';
import type { BlockServer } from '../../transfer/contracts/transport.ts';
import type { PeerId } from '../../util/peer-id.ts';
import { INBOUND_SILENT_MS, INBOUND_SWEEP_MS } from '../limits.ts';
import type { NetMetrics } from '../metrics.ts';
import { Responder } from './responder.ts';
import { isClosed } from '../wire/stream-io.ts';

/**
 * The answering sides of all connections whose peer opened block streams. Gives up connections from
 * which nothing has come for `INBOUND_SILENT_MS`: a requester that lives pings well within that.
 */
export class Responders {
  readonly #components: {
    readonly clock: Clock;
    readonly metrics: NetMetrics;
    readonly server: BlockServer;
  };
  readonly #entries = new Map<
    string,
    { readonly responder: Responder; readonly connection: Connection }
  >();
  readonly #ofPeer = new Map<PeerId, Set<Responder>>();
  #sweep: Timer;

  constructor(components: {
    readonly clock: Clock;
    readonly metrics: NetMetrics;
    readonly server: BlockServer;
  }) {
    this.#components = components;
    this.#sweep = this.#nextSweep();
  }

  /** Takes a new block stream of the peer. */
  add(peer: PeerId, stream: Stream, connection: Connection): void {
    if (isClosed(stream)) return;
    const responder = this.#entries.get(connection.id)?.responder ?? this.#create(peer, connection);
    responder.addStream(stream);
  }

  /** One through which the peer can be told something; undefined when it asks nothing of us. */
  of(peer: PeerId): Responder | undefined {
    const [responder] = this.#ofPeer.get(peer) ?? [];
    return responder;
  }

  stop(): void {
    this.#sweep.cancel();
    for (const { responder } of [...this.#entries.values()]) {
      responder.close(new Error('the transport stops'));
    }
  }

  #create(peer: PeerId, connection: Connection): Responder {
    const { clock, metrics, server } = this.#components;
    const onClosed = (): void => this.#forget(connection.id);
    const responder = new Responder(
      { server, metrics, nowMs: () => clock.nowMs() },
      { peer, onClosed },
    );
    this.#entries.set(connection.id, { responder, connection });
    const siblings = this.#ofPeer.get(peer) ?? new Set();
    this.#ofPeer.set(peer, siblings.add(responder));
    return responder;
  }

  #forget(connectionId: string): void {
    const entry = this.#entries.get(connectionId);
    if (entry === undefined) return;
    this.#entries.delete(connectionId);
    const { peer } = entry.responder;
    const siblings = this.#ofPeer.get(peer);
    siblings?.delete(entry.responder);
    if (siblings?.size === 0) this.#ofPeer.delete(peer);
  }

  #nextSweep(): Timer {
    return this.#components.clock.setTimer(INBOUND_SWEEP_MS, () => {
      const silentSinceMs = this.#components.clock.nowMs() - INBOUND_SILENT_MS;
      for (const { responder, connection } of [...this.#entries.values()]) {
        if (responder.lastHeardMs >= silentSinceMs) continue;
        this.#components.metrics.silent.inc({});
        connection.abort(new Error('the peer showed no sign of life'));
      }
      this.#sweep = this.#nextSweep();
    });
  }
}
