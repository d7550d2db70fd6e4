import { noise } from '@chainsafe/libp2p-noise';
import type {
  ConnectionGater,
  CounterGroup,
  Metrics as Libp2pMetrics,
  PrivateKey,
} from '@libp2p/interface';
import { tcp } from '@libp2p/tcp';
import { yamux } from '@libp2p/yamux';
import { createLibp2p, type Libp2p } from 'libp2p';
import { fewerWindowUpdates, inOneWrite } from './batching.ts';
import {
  ADDRESS_DIAL_MS,
  ADDRESSES_MAX,
  ADMISSION_STREAMS_MAX,
  BLOCK_STREAMS_IN_MAX,
  CONNECTIONS_MAX,
  DIAL_MS,
  INBOUND_PENDING_MAX,
  INBOUND_PER_SECOND_MAX,
  INBOUND_UPGRADE_MS,
  STREAM_OPEN_MS,
  STREAM_WINDOW_BYTES,
  TREE_STREAMS_MAX,
} from '../limits.ts';
import type { NetMetrics } from '../metrics.ts';

/**
 * Streams of one connection in one direction, twice what the protocols need: closed ones linger
 * until both sides agree.
 */
const MUXED_STREAMS_MAX = 2 * (2 * BLOCK_STREAMS_IN_MAX + TREE_STREAMS_MAX + ADMISSION_STREAMS_MAX);

/**
 * Only measures the round trip, by which yamux sizes its windows; signs of life are asked for by
 * `Liveness`.
 */
const RTT_INTERVAL_MS = 30_000;

/** Connections that the kernel keeps for us while a storm of dials lasts. */
const BACKLOG = 1024;

/**
 * A libp2p node with what Xylem needs and no more: TCP, Noise, yamux. No identify, no relay, no
 * discovery, no address book of others: hosts learn addresses from their tree. Its limits are set
 * on purpose; the defaults (5 connections a second from one address, 10 in their handshake, 300 in
 * all) cut off a cluster that starts at once. Not started.
 */
export function createNode(init: {
  readonly privateKey: PrivateKey;
  readonly listen: readonly string[];
  readonly announce: readonly string[];
  readonly metrics: NetMetrics;
  /** Decides which inbound connections the node takes. */
  readonly gater: ConnectionGater;
}): Promise<Libp2p> {
  return createLibp2p({
    start: false,
    privateKey: init.privateKey,
    addresses: { listen: [...init.listen], announce: [...init.announce] },
    transports: [tcp({ backlog: BACKLOG })],
    connectionEncrypters: [inOneWrite(noise())],
    connectionGater: init.gater,
    streamMuxers: [
      fewerWindowUpdates(
        yamux({
          enableKeepAlive: true,
          keepAliveInterval: RTT_INTERVAL_MS,
          maxInboundStreams: MUXED_STREAMS_MAX,
          maxOutboundStreams: MUXED_STREAMS_MAX,
        }),
        STREAM_WINDOW_BYTES,
      ),
    ],
    connectionMonitor: { enabled: false },
    connectionManager: {
      maxConnections: CONNECTIONS_MAX,
      inboundConnectionThreshold: INBOUND_PER_SECOND_MAX,
      maxIncomingPendingConnections: INBOUND_PENDING_MAX,
      inboundUpgradeTimeout: INBOUND_UPGRADE_MS,
      outboundStreamProtocolNegotiationTimeout: STREAM_OPEN_MS,
      inboundStreamProtocolNegotiationTimeout: STREAM_OPEN_MS,
      dialTimeout: DIAL_MS,
      addressDialTimeout: ADDRESS_DIAL_MS,
      maxPeerAddrsToDial: ADDRESSES_MAX,
      // The addresses come best first.
      addressSorter: () => 0,
      reconnectRetries: 0,
    },
    metrics: () => refusals(init.metrics),
  });
}

/**
 * Refused inbound connections show up in libp2p's own metrics only: this takes the one counter and
 * drops the others.
 */
function refusals(metrics: NetMetrics): Libp2pMetrics {
  const nothing = { increment: () => {}, decrement: () => {}, update: () => {}, reset: () => {} };
  const inboundErrors = {
    ...nothing,
    increment: (names: Record<string, unknown>) => {
      if ('ConnectionDeniedError' in names) metrics.refused.inc({ reason: 'limit' });
      else if ('ConnectionInterceptedError' in names) metrics.refused.inc({ reason: 'admission' });
      else metrics.refused.inc({ reason: 'handshake' });
    },
  };
  const counterGroup = (name: string): CounterGroup =>
    name === 'libp2p_connection_manager_dials_inbound_errors_total' ? inboundErrors : nothing;
  const silent = {
    ...nothing,
    timer: () => () => {},
    observe: () => {},
  };
  return {
    trackMultiaddrConnection: () => {},
    trackProtocolStream: () => {},
    registerMetric: () => silent,
    registerMetricGroup: () => silent,
    registerCounter: () => nothing,
    registerCounterGroup: counterGroup,
    registerHistogram: () => silent,
    registerHistogramGroup: () => silent,
    registerSummary: () => silent,
    registerSummaryGroup: () => silent,
    traceFunction: <F>(_name: string, run: F) => run,
    createTrace: () => undefined,
  };
}
