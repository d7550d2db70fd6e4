import type { Counter, Gauge, Metrics } from '../../runtime/metrics.ts';

/** What the local endpoint counts of its connections. */
export interface HttpMetrics {
  readonly connections: Gauge;
  readonly refused: Counter;
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
      help: 'Connections of programs of this host that were closed for being too many.',
    }),
  };
}
