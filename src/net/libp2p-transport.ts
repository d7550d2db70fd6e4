import type { Connection } from '@libp2p/interface';
import { peerIdFromString } from '@libp2p/peer-id';
import { CODE_P2P, multiaddr, type Multiaddr } from '@multiformats/multiaddr';
import type { Libp2p } from 'libp2p';
import type { Clock } from '../runtime/clock.ts';
import type { Logger } from '../runtime/logger.ts';
import type { Mac } from '../runtime/mac.ts';
import type { Metrics } from '../runtime/metrics.ts';
import type { Random } from '../runtime/random.ts';
import type { PreheatTransport } from '../preheat/messages.ts';
import type { Handlers } from '../transfer/contracts/calls.ts';
import {
  type BlockRequest,
  type BlockServer,
  type PendingBlock,
  type Transport,
  peerError,
} from '../transfer/contracts/transport.ts';
import type { HostAddress, HostCard, TouchOrder } from '../tree/messages.ts';
import { assert, defined } from '../util/assert.ts';
import type { BufferPool } from '../util/buffer-pool.ts';
import { peerId, type PeerId } from '../util/peer-id.ts';
import { ADMISSION_PROTOCOL, Admission } from './admission/admission.ts';
import { BlockCall } from './blocks/block-call.ts';
import { Connections } from './node/connections.ts';
import { Door } from './admission/door.ts';
import { peerIdOf, privateKeyOf, type Identity } from './node/identity.ts';
import { createNode } from './node/libp2p-node.ts';
import {
  ADDRESSES_MAX,
  ADMISSION_STREAMS_MAX,
  BLOCK_STREAMS_IN_MAX,
  CONNECTIONS_PER_PEER_MAX,
  OVERLOADED_RETRY_MS,
  PAYLOAD_BYTES_MAX,
  PEERS_ASKED_MAX,
  STOP_MS,
  TREE_STREAMS_MAX,
} from './limits.ts';
import { netMetrics, type NetMetrics } from './metrics.ts';
import { Requester } from './blocks/requester.ts';
import { BLOCK_PROTOCOL } from './blocks/requester-link.ts';
import { Responders } from './blocks/responders.ts';
import { ipOf, withObserved } from './wire/addresses.ts';
import { TreeClient } from './calls/call-client.ts';
import { TREE_PROTOCOL } from './calls/call-link.ts';
import { TreeResponders, type AskedHandlers } from './calls/call-responder.ts';
import type { Calls } from './calls/call-table.ts';

/** Identity and addresses of the host, and the secrets that admit its peers. */
export interface Libp2pTransportInit {
  readonly identity: Identity;
  /** Multiaddrs to listen on; none makes a host that only asks. */
  readonly listen: readonly string[];
  /** Multiaddrs to hand out instead of those that it listens on. */
  readonly announce?: readonly string[];
  /**
   * Secrets of the cluster: one, or two while the key changes, the one to prove first. Asked every
   * few seconds; must return the same list as long as they are the same.
   */
  readonly clusterKeys: () => readonly Uint8Array[];
  /** Shows others that this host is a root. */
  readonly certificate?: Uint8Array | undefined;
}

interface Components {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly metrics: Metrics;
  readonly mac: Mac;
  /** Where the payloads of answers go; its slabs hold a block. */
  readonly pool: BufferPool;
}

/** What answers peers. */
interface Servers {
  readonly block: BlockServer;
  readonly calls?: Handlers<Calls>;
}

/** What exists from `start()` on. */
interface Running {
  readonly node: Libp2p;
  readonly admission: Admission;
  readonly connections: Connections;
  readonly responders: Responders;
  readonly treeClient: TreeClient;
  readonly treeResponders: TreeResponders;
}

/**
 * Talks to other agents over libp2p: TCP, Noise and yamux; `/xylem/admission/2` first, then
 * `/xylem/block/1` and `/xylem/tree/3` (docs/WIRE_PROTOCOL.md). A peer that does not prove the
 * cluster key is asked nothing and told nothing. Life and errors: see `Transport`. Not started or
 * stopped, every request fails with `unreachable`.
 */
export class Libp2pTransport implements Transport, PreheatTransport {
  readonly self: PeerId;
  readonly #components: Components;
  readonly #init: Libp2pTransportInit;
  readonly #metrics: NetMetrics;
  readonly #requesters = new Map<PeerId, Requester>();
  #servers: Servers | undefined;
  #running: Running | undefined;

  constructor(components: Components, init: Libp2pTransportInit) {
    const { slabBytes } = components.pool;
    assert(slabBytes >= PAYLOAD_BYTES_MAX, `slabs of ${slabBytes} bytes do not hold a block`);
    this.#components = components;
    this.#init = init;
    this.#metrics = netMetrics(components.metrics);
    this.self = peerIdOf(init.identity);
  }

  serve(servers: Servers): void {
    assert(this.#servers === undefined, 'serve() is called once');
    this.#servers = servers;
  }

  async start(): Promise<void> {
    assert(this.#running === undefined, 'a transport is started once');
    const { block, calls: handlers = {} } = defined(this.#servers, 'serve() comes before start()');
    const { clock, random, logger, mac } = this.#components;
    const metrics = this.#metrics;
    const { listen, announce = [], clusterKeys, certificate } = this.#init;
    const privateKey = privateKeyOf(this.#init.identity);
    const door = new Door({ clock, logger, metrics });
    const node = await createNode({ privateKey, listen, announce, metrics, gater: door.gater });
    const admission = new Admission(
      { clock, random, logger, mac, metrics, door },
      { self: this.self, clusterKeys, certificate, onPeerGone: (peer) => block.onPeerGone(peer) },
    );
    const connections = new Connections({ clock, random, metrics, node, admission });
    const connect = connections.connect.bind(connections);
    const running: Running = {
      node,
      admission,
      connections,
      responders: new Responders({ clock, metrics, server: block }),
      treeClient: new TreeClient({
        clock,
        metrics,
        connect,
        onSilent: (peer) => block.onSilent?.(peer),
      }),
      treeResponders: new TreeResponders({
        clock,
        logger,
        metrics,
        handlers: withObservedAddresses(handlers),
      }),
    };
    this.#listenTo(running);
    await this.#handle(running);
    await node.start();
    this.#running = running;
  }

  async stop(): Promise<void> {
    const running = this.#running;
    if (running === undefined) return;
    this.#running = undefined;
    running.admission.stop();
    running.connections.stop();
    running.treeClient.stop();
    running.treeResponders.stop();
    for (const requester of [...this.#requesters.values()]) requester.stop();
    running.responders.stop();
    const limit = this.#components.clock.setTimer(STOP_MS, () => {
      for (const connection of running.node.getConnections()) {
        connection.abort(new Error('the transport stops'));
      }
    });
    await running.node.stop();
    limit.cancel();
  }

  addresses(): readonly string[] {
    const all = (this.#running?.node.getMultiaddrs() ?? []).map((address) =>
      address.decapsulateCode(CODE_P2P).toString(),
    );
    const distinct = [...new Set(all)];
    const remote = distinct.filter((address) => !/^\/ip4\/127\.|^\/ip6\/::1\//.test(address));
    return (remote.length > 0 ? remote : distinct).slice(0, ADDRESSES_MAX);
  }

  /**
   * Id of the peer at a multiaddr, once it has proved the cluster key: for hosts of which only the
   * address is known. Rejects with any error.
   */
  async identify(address: string, signal: AbortSignal): Promise<PeerId> {
    const { node, admission, treeClient } = defined(this.#running, 'the transport runs');
    const target = multiaddr(address);
    const open = node
      .getConnections()
      .find((each) => leadsTo(each, target) && admission.isAdmitted(each));
    const connection = open ?? (await node.dial(target, { signal }));
    const peer = peerId(connection.remotePeer.toString());
    // A second connection to a peer may be closed in favour of the first.
    await admission.admitted(connection, signal).catch((error: unknown) => {
      if (!admission.knows(peer)) throw error;
    });
    // Hosts find roots this way, and thousands may soon ask one root for their places at once.
    void treeClient.prepare({ peer, addresses: [address] });
    return peer;
  }

  /** Makes one more connection to a host, as others would, and ends it. */
  async reach({ peer, addresses }: HostAddress, signal: AbortSignal): Promise<void> {
    const { node, admission } = defined(this.#running, 'the transport runs');
    const targets = addresses.map((address) => multiaddr(`${address}/p2p/${peer}`));
    const connection = await node.dial(targets, { signal, force: true });
    await admission.admitted(connection, signal);
    await connection.close({ signal });
  }

  /** What a connected peer showed as a root in its admission, unchecked. */
  certificateOf(peer: PeerId): Uint8Array | undefined {
    const { node, admission } = defined(this.#running, 'the transport runs');
    for (const connection of node.getConnections(peerIdFromString(peer))) {
      const certificate = admission.certificateOf(connection);
      if (admission.isAdmitted(connection) && certificate !== undefined) return certificate;
    }
    return undefined;
  }

  /** Peers with an admitted connection. */
  peers(): readonly PeerId[] {
    return this.#running?.admission.peers() ?? [];
  }

  requestBlock(host: HostAddress, request: BlockRequest): PendingBlock {
    const requester = this.#requesterOf(host.peer);
    if (requester !== undefined) return requester.request(host, request);
    const { clock } = this.#components;
    const owner = { onPromoted: () => {}, onGivenUp: () => {} };
    const call = new BlockCall(
      { clock, metrics: this.#metrics },
      { owner, peer: host.peer, request },
    );
    call.reject(
      this.#running === undefined
        ? { code: 'unreachable' }
        : { code: 'overloaded', retryAfterMs: OVERLOADED_RETRY_MS },
    );
    return call;
  }

  sendOrder(peer: PeerId, order: TouchOrder): void {
    this.#running?.responders.of(peer)?.sendOrder(order);
  }

  sendAlive(peer: PeerId): void {
    this.#running?.responders.of(peer)?.sendAlive();
  }

  async call<K extends keyof Calls>(
    host: HostAddress,
    name: K,
    request: Calls[K][0],
    signal: AbortSignal,
  ): Promise<Calls[K][1]> {
    if (this.#running === undefined) throw peerError(host.peer, { code: 'unreachable' });
    return this.#running.treeClient.call(host, name, request, signal);
  }

  /** Undefined when the transport does not run, or asks too many peers already. */
  #requesterOf(peer: PeerId): Requester | undefined {
    const running = this.#running;
    if (running === undefined) return undefined;
    const known = this.#requesters.get(peer);
    if (known !== undefined) return known;
    if (this.#requesters.size >= PEERS_ASKED_MAX) return undefined;
    const { clock, pool } = this.#components;
    const connect = running.connections.connect.bind(running.connections);
    const { block: server } = defined(this.#servers, 'a transport that runs has its servers');
    const requester: Requester = new Requester(
      { clock, pool, metrics: this.#metrics, server, connect },
      {
        peer,
        onUnused: () => {
          if (this.#requesters.get(peer) === requester) this.#requesters.delete(peer);
        },
      },
    );
    this.#requesters.set(peer, requester);
    return requester;
  }

  async #handle({ node, admission, responders, treeResponders }: Running): Promise<void> {
    await node.handle(
      ADMISSION_PROTOCOL,
      (stream, connection) => void admission.serve(stream, connection),
      { maxInboundStreams: ADMISSION_STREAMS_MAX, maxOutboundStreams: ADMISSION_STREAMS_MAX },
    );
    await node.handle(
      BLOCK_PROTOCOL,
      (stream, connection) => {
        const peer = admission.pass(stream, connection);
        if (peer !== undefined) responders.add(peer, stream, connection);
      },
      // The streams of a link that was closed may still be counted when those of the next one come.
      { maxInboundStreams: 2 * BLOCK_STREAMS_IN_MAX, maxOutboundStreams: 2 * BLOCK_STREAMS_IN_MAX },
    );
    await node.handle(
      TREE_PROTOCOL,
      (stream, connection) => {
        const peer = admission.pass(stream, connection);
        const address = ipOf(connection.remoteAddr.toString());
        if (peer !== undefined) treeResponders.add({ peer, address }, stream);
      },
      { maxInboundStreams: 2 * TREE_STREAMS_MAX, maxOutboundStreams: 2 * TREE_STREAMS_MAX },
    );
  }

  #listenTo({ node, admission }: Running): void {
    // Counted here: the node builds a list of all connections whenever it is asked.
    let openCount = 0;
    const count = (change: number): void => {
      openCount += change;
      this.#metrics.connections.set({}, openCount);
    };
    node.addEventListener('connection:open', ({ detail }: CustomEvent<Connection>) => {
      this.#metrics.connected.inc({ direction: detail.direction });
      count(1);
      admission.onOpen(detail);
      const siblings = node.getConnections(detail.remotePeer);
      if (siblings.length <= CONNECTIONS_PER_PEER_MAX) return;
      this.#metrics.refused.inc({ reason: 'per-peer' });
      detail.abort(new Error(`more than ${CONNECTIONS_PER_PEER_MAX} connections of one peer`));
    });
    node.addEventListener('connection:close', ({ detail }: CustomEvent<Connection>) => {
      count(-1);
      admission.onClose(detail);
    });
  }
}

/** Whether the connection was made by dialling the address. */
function leadsTo({ direction, remoteAddr }: Connection, address: Multiaddr): boolean {
  if (direction !== 'outbound') return false;
  const [one, other] = [remoteAddr, address].map((each) => each.decapsulateCode(CODE_P2P));
  return one !== undefined && other !== undefined && one.equals(other);
}

/**
 * The handlers, told of each host that joins or is there by the address that it is seen under: that
 * of the connection over which it asks, since two hosts may have one identity.
 */
function withObservedAddresses(handlers: Handlers<Calls>): AskedHandlers {
  const { join, presence } = handlers;
  const seen = <R extends { readonly host: HostCard }>(request: R, address: string): R => {
    const addresses = withObserved(request.host, address);
    return { ...request, host: { ...request.host, addresses } };
  };
  return {
    ...handlers,
    ...(join && { join: (peer, request, address) => join(peer, seen(request, address)) }),
    ...(presence && {
      presence: (peer, request, address) => presence(peer, seen(request, address)),
    }),
  };
}
