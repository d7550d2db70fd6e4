import type { Counter, Gauge, Metrics } from '../../runtime/metrics.ts';

/** Statuses that the local endpoint answers with. */
export const STATUSES = [
  ...['200', '206', '304', '307', '400', '401', '403', '404', '405', '412', '416', '429'],
  ...['499', '500', '502', '503', '504'],
];

/** What the local endpoint counts of its connections and their answers. */
export interface HttpMetrics {
  readonly connections: Gauge;
  readonly refused: Counter;
  /** By `kind` of answer: see `HeldBytes`. */
  readonly heldBytes: Gauge;
  readonly cut: Counter;
}

/** Registers the metrics of the room. */
export function httpMetrics(metrics: Metrics): HttpMetrics {
  return {
    connections: metrics.gauge({
      name: 'xylem_local_connections',
      help: 'Connections of programs of this host that are open.',
    }),
    refused: metrics.counter({
      name: 'xylem_local_connections_refused_total',
      help:
        'Connections of programs of this host that were closed for being too many, or for ' +
        'asking too much ahead.',
    }),
    heldBytes: metrics.gauge({
      name: 'xylem_local_held_bytes',
      help:
        'Memory of answers that programs of this host have not taken yet, by kind (read, ' +
        'stream).',
      labelNames: ['kind'],
    }),
    cut: metrics.counter({
      name: 'xylem_local_answers_cut_total',
      help:
        'Answers cut off because their program did not take them while others waited for room, ' +
        'by kind (read, stream).',
      labels: { kind: ['read', 'stream'] },
    }),
  };
}
