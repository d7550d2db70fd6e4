import { LINK_ERROR_CODES } from '../../device/link/errors.ts';
import type { Counter, Gauge, Metrics } from '../../runtime/metrics.ts';

/** Metrics of the device socket. */
export interface DeviceSocketMetrics {
  readonly connections: Gauge;
  readonly images: Gauge;
  /** Labels: `kind` = demand | prefetch, `outcome` = block | a code of LINK_ERROR_CODES. */
  readonly reads: Counter;
  /** Labels: `outcome` = opened | a code of LINK_ERROR_CODES. */
  readonly opens: Counter;
}

/** Registers the metrics of the device socket. */
export function deviceSocketMetrics(metrics: Metrics): DeviceSocketMetrics {
  return {
    connections: metrics.gauge({
      name: 'xylem_device_socket_connections',
      help: 'Connections of device processes: two of each.',
    }),
    images: metrics.gauge({
      name: 'xylem_device_socket_images',
      help: 'Images that device processes have open.',
    }),
    reads: metrics.counter({
      name: 'xylem_device_socket_reads_total',
      help: 'Blocks that device processes asked for, by kind and outcome.',
      labels: { kind: ['demand', 'prefetch'], outcome: ['block', ...LINK_ERROR_CODES] },
    }),
    opens: metrics.counter({
      name: 'xylem_device_socket_opens_total',
      help: 'Images that device processes asked for, by outcome.',
      labels: { outcome: ['opened', ...LINK_ERROR_CODES] },
    }),
  };
}
