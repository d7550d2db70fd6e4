import {
  allOf,
  type Counter,
  type Gauge,
  type Histogram,
  type Metrics,
} from '../runtime/metrics.ts';
import type { BlockStoreErrorDetail, StoreOperation } from './errors.ts';

const OPERATIONS = allOf<StoreOperation | 'sync'>({
  put: true,
  get: true,
  drop: true,
  pin: true,
  evict: true,
  sync: true,
});

/** Why a call of the store fails. */
export const STORE_CODES = allOf<BlockStoreErrorDetail['code']>({
  busy: true,
  'no-space': true,
  'read-only': true,
  io: true,
  quota: true,
  'size-mismatch': true,
  'invalid-block': true,
  'too-many-blobs': true,
  'too-many-pins': true,
  stopped: true,
  version: true,
  locked: true,
});

/** Those of a running store, and `stopped`. */
const CODES = STORE_CODES.filter((code) => code !== 'version' && code !== 'locked');

/** Metrics of the store. */
export interface StoreMetrics {
  /** Labels: `event` = written | hit | miss | damaged | dropped | evicted. */
  readonly blocks: Counter;
  /**
   * Calls that rejected. Labels: `operation` = put | get | drop | sync | evict, `code` of
   * BlockStoreError.
   */
  readonly errors: Counter;
  readonly present: Gauge;
  readonly sizeBytes: Gauge;
  readonly queuedBytes: Gauge;
  readonly quotaBytes: Gauge;
  /** 1 while writes to the disk fail, else 0. */
  readonly writesFailing: Gauge;
  readonly syncSeconds: Histogram;
  readonly evictSeconds: Histogram;
}

/** Registers the metrics of a store. */
export function storeMetrics(metrics: Metrics): StoreMetrics {
  return {
    blocks: metrics.counter({
      name: 'xylem_store_blocks_total',
      help:
        'Blocks written to, found in, missed in, found damaged in, ' +
        'dropped and evicted from the store.',
      labels: { event: ['written', 'hit', 'miss', 'damaged', 'dropped', 'evicted'] },
    }),
    errors: metrics.counter({
      name: 'xylem_store_errors_total',
      help: 'Operations of the store that failed, by operation and reason.',
      labels: { operation: OPERATIONS, code: CODES },
    }),
    present: metrics.gauge({
      name: 'xylem_store_present_blocks',
      help: 'Blocks present in the store.',
    }),
    sizeBytes: metrics.gauge({
      name: 'xylem_store_size_bytes',
      help: 'Bytes of the blocks present in the store.',
    }),
    queuedBytes: metrics.gauge({
      name: 'xylem_store_write_queue_bytes',
      help: 'Bytes accepted by the store and not written yet.',
    }),
    quotaBytes: metrics.gauge({
      name: 'xylem_store_quota_bytes',
      help: 'Most bytes of blocks that the store keeps; 0 without a limit.',
    }),
    writesFailing: metrics.gauge({
      name: 'xylem_store_writes_failing',
      help:
        '1 while the disk is full or refuses writes, and blocks are passed on without being ' +
        'stored, else 0.',
    }),
    evictSeconds: metrics.histogram({
      name: 'xylem_store_evict_seconds',
      help: 'Time to remove one group of blocks from the disk.',
      // From an unlink in memory to a disk in trouble.
      buckets: [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3],
    }),
    syncSeconds: metrics.histogram({
      name: 'xylem_store_sync_seconds',
      help: 'Time to make everything that was written durable.',
      // From a cheap sync on flash (1 ms) to a disk in trouble (10 s).
      buckets: [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10],
    }),
  };
}
