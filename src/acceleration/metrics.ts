import type { Counter, Gauge, Histogram, Metrics } from '../runtime/metrics.ts';
import { ACCELERATION_FAILURES } from './messages.ts';

/** What acceleration counts. */
export interface AccelerationMetrics {
  /** By `state`: Preparing, Ready or Failed. */
  readonly images: Gauge;
  readonly running: Gauge;
  /** By `result`: ready, or the kind of the failure. */
  readonly conversions: Counter;
  readonly seconds: Histogram;
  /** Bytes of blobs that this root keeps in registries. */
  readonly kept: Gauge;
  readonly collected: Counter;
}

/** Registers the metrics of the room. */
export function accelerationMetrics(metrics: Metrics): AccelerationMetrics {
  return {
    images: metrics.gauge({
      name: 'xylem_accelerated_images',
      help: 'Images that this root accelerates, by state: Preparing, Ready, Failed.',
      labelNames: ['state'],
    }),
    running: metrics.gauge({
      name: 'xylem_conversions_running',
      help: 'Conversions to block images that run.',
    }),
    conversions: metrics.counter({
      name: 'xylem_conversions_total',
      help:
        'Conversions to block images that ended, by result: ready, or why not: reference, ' +
        'credentials, registry, disk, image, tool, other.',
      labels: { result: ['ready', ...ACCELERATION_FAILURES] },
    }),
    seconds: metrics.histogram({
      name: 'xylem_conversion_seconds',
      help: 'Time of a conversion to a block image, whatever came of it.',
      buckets: [1, 3, 10, 30, 100, 300, 1000, 3000, 10_000],
    }),
    kept: metrics.gauge({
      name: 'xylem_acceleration_kept_bytes',
      help: 'Bytes of block images and kept layers that this root has put into registries.',
    }),
    collected: metrics.counter({
      name: 'xylem_acceleration_removed_total',
      help: 'Manifests of unused block images and layers that this root removed from registries.',
    }),
  };
}
