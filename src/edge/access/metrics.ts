import { allOf, type Counter, type Metrics } from '../../runtime/metrics.ts';
import type { AccessError } from './access-error.ts';

const RESULTS = allOf<AccessError['code'] | 'shared' | 'alone'>({
  shared: true,
  alone: true,
  unauthorized: true,
  denied: true,
  'rate-limited': true,
  'not-found': true,
  'other-content': true,
  unsound: true,
  unchecked: true,
});

/** What opening blobs for local clients counts. */
export interface AccessMetrics {
  /** By `result`: shared, alone, or a code of AccessError. */
  readonly checks: Counter;
  readonly clientOriginBytes: Counter;
}

/** Registers the metrics of the room. */
export function accessMetrics(metrics: Metrics): AccessMetrics {
  return {
    checks: metrics.counter({
      name: 'xylem_access_checks_total',
      help:
        'Requests of local clients whose right to read a blob was not known from memory, by ' +
        'the outcome of asking.',
      labels: { result: RESULTS },
    }),
    clientOriginBytes: metrics.counter({
      name: 'xylem_client_origin_bytes_total',
      help:
        'Bytes read from registries and storages with the signed URL or the token of a local ' +
        'client.',
    }),
  };
}
