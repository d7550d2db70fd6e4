import {
  allOf,
  type Counter,
  type Gauge,
  type Histogram,
  type Metrics,
} from '../runtime/metrics.ts';
import type { PeerErrorDetail } from '../transfer/contracts/transport.ts';
import { CALLS } from './calls/call-table.ts';

const OUTCOMES = allOf<PeerErrorDetail['code'] | 'ok'>({
  ok: true,
  unreachable: true,
  timeout: true,
  overloaded: true,
  'unknown-blob': true,
  'not-found': true,
  hops: true,
  protocol: true,
  refused: true,
  cancelled: true,
});

/** How handshakes of admission end. */
export type AdmissionResult =
  | 'admitted'
  | 'wrong-key'
  | 'version'
  | 'timeout'
  | 'protocol'
  | 'refused';

const RESULTS = allOf<AdmissionResult>({
  admitted: true,
  'wrong-key': true,
  version: true,
  timeout: true,
  protocol: true,
  refused: true,
});

/** What the transport counts. Labels are fixed sets. */
export interface NetMetrics {
  /** Open connections. */
  readonly connections: Gauge;
  /** Connections that were made, by `direction`: inbound or outbound. */
  readonly connected: Counter;
  /** Dials that failed after all tries. */
  readonly dialFailed: Counter;
  /**
   * Inbound connections that were not taken, by `reason`: limit, per-peer, admission or handshake.
   */
  readonly refused: Counter;
  /**
   * Handshakes of admission that ended, and connections turned away before theirs, by `result`: see
   * AdmissionResult.
   */
  readonly admission: Counter;
  /** Cluster keys that are valid now. */
  readonly clusterKeys: Gauge;
  /** Times that a peer broke the wire protocol, by `protocol`: block or tree. */
  readonly violations: Counter;
  /** Connections given up because the peer showed no sign of life. */
  readonly silent: Counter;
  /** Requests of peers refused because they exceeded their credit. */
  readonly overCredit: Counter;
  /** Our requests that ended, by `kind` and `outcome`: ok or a code of PeerError. */
  readonly requests: Counter;
  /** Seconds from asking for a block to its answer, by `kind`; answered ones only. */
  readonly answerSeconds: Histogram;
  /** Our tree calls that ended, by `call` and `outcome`. */
  readonly treeCalls: Counter;
  /** Roots, and relays of the group, that answer this host. */
  readonly rootsAnswering: Gauge;
  /** Times that two hosts with one identity were seen, on a root or relay. */
  readonly twins: Counter;
}

/**
 * From a memory hit over loopback (0.25 ms for 64 KiB) to a read that the registry answers late.
 */
const ANSWER_SECONDS_BUCKETS = [
  0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10,
];

/** Registers the metrics of the transport. */
export function netMetrics(metrics: Metrics): NetMetrics {
  return {
    connections: metrics.gauge({
      name: 'xylem_net_connections',
      help: 'Open connections to other agents.',
    }),
    connected: metrics.counter({
      name: 'xylem_net_connected_total',
      help: 'Connections made with other agents.',
      labels: { direction: ['inbound', 'outbound'] },
    }),
    dialFailed: metrics.counter({
      name: 'xylem_net_dial_failed_total',
      help: 'Dials that failed after all their tries.',
    }),
    refused: metrics.counter({
      name: 'xylem_net_refused_total',
      help: 'Inbound connections that were not taken.',
      labels: { reason: ['limit', 'per-peer', 'admission', 'handshake'] },
    }),
    admission: metrics.counter({
      name: 'xylem_admission_total',
      help: 'Connections admitted by the cluster key, or why they were not.',
      labels: { result: RESULTS },
    }),
    clusterKeys: metrics.gauge({
      name: 'xylem_admission_keys',
      help: 'Cluster keys that are valid now: two while the key changes.',
    }),
    violations: metrics.counter({
      name: 'xylem_net_violations_total',
      help: 'Times that a peer broke the wire protocol.',
      labels: { protocol: ['block', 'tree'] },
    }),
    silent: metrics.counter({
      name: 'xylem_net_silent_total',
      help: 'Connections given up because the peer showed no sign of life.',
    }),
    overCredit: metrics.counter({
      name: 'xylem_net_over_credit_total',
      help: 'Block requests of peers refused because they exceeded their credit.',
    }),
    requests: metrics.counter({
      name: 'xylem_net_requests_total',
      help: 'Block requests to peers that ended.',
      labels: { kind: ['demand', 'prefetch'], outcome: OUTCOMES },
    }),
    answerSeconds: metrics.histogram({
      name: 'xylem_net_answer_seconds',
      help: 'Time from asking a peer for a block to its answer.',
      labelNames: ['kind'],
      buckets: ANSWER_SECONDS_BUCKETS,
    }),
    treeCalls: metrics.counter({
      name: 'xylem_net_tree_calls_total',
      help: 'Tree calls to peers that ended.',
      labels: { call: Object.keys(CALLS), outcome: OUTCOMES },
    }),
    rootsAnswering: metrics.gauge({
      name: 'xylem_roots_answering',
      help: 'Roots, and relays of the group, that answer this host; itself is not counted.',
    }),
    twins: metrics.counter({
      name: 'xylem_identity_twins_total',
      help: 'Times that two hosts with one identity were seen: identity.keyFile was copied.',
    }),
  };
}
