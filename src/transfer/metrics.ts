import type { Counter, Gauge, Metrics } from '../runtime/metrics.ts';

/** What the way of a block counts. Labels are fixed sets. */
export interface TransferMetrics {
  /** `source`: BlockSource; `kind`: demand or prefetch. */
  readonly blockBytes: Counter;
  /** Blocks refused, by `reason`: `bad` (wrong bytes or attestation) or `unknown-signer`. */
  readonly rejected: Counter;
  /** Peers given up, by `reason`. */
  readonly lost: Counter;
  /** Demand reads of this host that failed, by `code`. */
  readonly failed: Counter;
  /** Bytes sent to peers. */
  readonly sentBytes: Counter;
  readonly waiting: Gauge;
  /** Blocks that were not stored, by `code`: passed on all the same. */
  readonly unstored: Counter;
}

export function transferMetrics(metrics: Metrics): TransferMetrics {
  return {
    blockBytes: metrics.counter({
      name: 'xylem_block_bytes_total',
      help: 'Block bytes that became available on this host, by source.',
      labelNames: ['source', 'kind'],
    }),
    rejected: metrics.counter({
      name: 'xylem_block_rejected_total',
      help: 'Blocks that were refused: wrong bytes or attestation, or a root that this host does not know.',
      labelNames: ['reason'],
    }),
    lost: metrics.counter({
      name: 'xylem_peer_lost_total',
      help: 'Times that a peer was given up for a while.',
      labelNames: ['reason'],
    }),
    failed: metrics.counter({
      name: 'xylem_read_failed_total',
      help: 'Demand reads of this host that failed.',
      labelNames: ['code'],
    }),
    sentBytes: metrics.counter({
      name: 'xylem_block_sent_bytes_total',
      help: 'Block bytes sent to peers.',
    }),
    waiting: metrics.gauge({
      name: 'xylem_reads_waiting',
      help: 'Reads that wait for a block, of this host and of peers.',
    }),
    unstored: metrics.counter({
      name: 'xylem_block_unstored_total',
      help: 'Blocks that could not be stored and were passed on without.',
      labelNames: ['code'],
    }),
  };
}
