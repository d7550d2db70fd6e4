import type { Counter, Gauge, Histogram, Metrics } from '../runtime/metrics.ts';

/** Metrics of the devices of a host, for all mounts together. */
export interface DeviceMetrics {
  readonly mounts: Gauge;
  readonly readBytes: Counter;
  readonly readErrors: Counter;
  readonly writeErrors: Counter;
  readonly waitSeconds: Histogram;
  readonly stalls: Counter;
  readonly unmountsRefused: Counter;
  readonly nbdConnections: Gauge;
}

/** Registers the metrics of the devices. */
export function deviceMetrics(metrics: Metrics): DeviceMetrics {
  return {
    mounts: metrics.gauge({
      name: 'xylem_device_mounts',
      help: 'Images that are mounted now.',
    }),
    readBytes: metrics.counter({
      name: 'xylem_device_read_bytes_total',
      help:
        'Bytes that block devices were asked for: from memory, from the files of the store ' +
        '(past the event loop), or fetched.',
      labels: { from: ['memory', 'store', 'fetched'] },
    }),
    readErrors: metrics.counter({
      name: 'xylem_device_read_errors_total',
      help: 'Reads of block devices that failed with EIO.',
    }),
    writeErrors: metrics.counter({
      name: 'xylem_device_write_errors_total',
      help: 'Writes and flushes of writable devices that failed: their file systems take no more.',
    }),
    nbdConnections: metrics.gauge({
      name: 'xylem_device_nbd_connections',
      help: 'Clients that are connected over NBD now.',
    }),
    stalls: metrics.counter({
      name: 'xylem_device_read_stalls_total',
      help: 'Reads of block devices that waited for longer than a second.',
    }),
    unmountsRefused: metrics.counter({
      name: 'xylem_device_unmounts_refused_total',
      help: 'Unmounts that were refused since something used the image still.',
    }),
    waitSeconds: metrics.histogram({
      name: 'xylem_device_read_wait_seconds',
      help: 'How long a read waited for bytes that were not in memory.',
      // From a block on the local disk (1 ms) and a fetch from a parent (10 ms) to the deadline of
      // a read.
      buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60],
    }),
  };
}
