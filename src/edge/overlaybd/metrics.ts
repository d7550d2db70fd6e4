import type { Counter, Histogram, Metrics } from '../../runtime/metrics.ts';
import { STATUSES } from '../http/metrics.ts';

/** What answering overlaybd counts. */
export interface OverlaybdMetrics {
  /** By `status` of HTTP. */
  readonly requests: Counter;
  readonly responseBytes: Counter;
  readonly firstByteSeconds: Histogram;
  readonly passedThroughBytes: Counter;
}

/**
 * Bucket bounds in seconds: memory answers in under 1 ms, a registry in 50 ms to seconds; the last
 * is the deadline.
 */
const FIRST_BYTE_BUCKETS = [
  0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25,
];

/** Registers the metrics of the room. */
export function overlaybdMetrics(metrics: Metrics): OverlaybdMetrics {
  return {
    requests: metrics.counter({
      name: 'xylem_local_requests_total',
      help: 'Requests for blobs on the local endpoint, by HTTP status.',
      labels: { status: STATUSES },
    }),
    responseBytes: metrics.counter({
      name: 'xylem_local_response_bytes_total',
      help: 'Bytes of blobs handed to sockets of the local endpoint.',
    }),
    firstByteSeconds: metrics.histogram({
      name: 'xylem_local_first_byte_seconds',
      help: 'Time from a request for a blob to the start of its answer.',
      buckets: FIRST_BYTE_BUCKETS,
    }),
    passedThroughBytes: metrics.counter({
      name: 'xylem_passed_through_bytes_total',
      help: 'Bytes that local clients got straight from the server that they named, nothing kept.',
    }),
  };
}
