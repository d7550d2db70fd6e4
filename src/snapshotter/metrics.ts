import type { Counter, Gauge, Histogram, Metrics } from '../runtime/metrics.ts';

/** What containerd asks for. */
export const OPERATIONS = [
  ...(['prepare', 'view', 'mounts', 'commit', 'remove'] as const),
  ...(['stat', 'update', 'list', 'usage', 'cleanup'] as const),
] as const;

/** Codes of gRPC that calls end with. */
const CODES = [
  ...['OK', 'CANCELLED', 'UNKNOWN', 'INVALID_ARGUMENT', 'NOT_FOUND', 'ALREADY_EXISTS'],
  ...[
    'PERMISSION_DENIED',
    'RESOURCE_EXHAUSTED',
    'FAILED_PRECONDITION',
    'UNAVAILABLE',
    'INTERNAL',
    'DATA_LOSS',
  ],
];

/** Metrics of the snapshotter. */
export interface SnapshotterMetrics {
  readonly operations: Counter;
  readonly seconds: Histogram;
  readonly snapshots: Gauge;
  readonly devicesNotHeld: Counter;
}

/** Registers the metrics of the snapshotter. */
export function snapshotterMetrics(metrics: Metrics): SnapshotterMetrics {
  return {
    operations: metrics.counter({
      name: 'xylem_snapshotter_operations_total',
      help: 'Calls of containerd, by what they ask for and the gRPC code of the answer.',
      labels: { operation: OPERATIONS, code: CODES },
    }),
    seconds: metrics.histogram({
      name: 'xylem_snapshotter_operation_seconds',
      help: 'How long calls of containerd took.',
      labelNames: ['operation'],
      // From an answer out of memory (0.5 ms), a synced write (5 ms) and a mount of an image whose
      // blocks are near (100 ms) to one that waits for a registry until its deadline.
      buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60],
    }),
    snapshots: metrics.gauge({
      name: 'xylem_snapshots',
      help:
        'Snapshots: active ones, views, and committed ones by what they hold ' +
        '(files, a layer of a block device, a trace).',
      labelNames: ['kind'],
    }),
    devicesNotHeld: metrics.counter({
      name: 'xylem_snapshotter_devices_not_held_total',
      help: 'Devices of open snapshots that could not be mounted again at the start.',
    }),
  };
}
