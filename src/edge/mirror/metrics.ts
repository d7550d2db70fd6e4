import type { Counter, Metrics } from '../../runtime/metrics.ts';
import { STATUSES } from '../http/metrics.ts';

/** What the registry mirror counts. */
export interface MirrorMetrics {
  /** By `kind` (manifest, blob or other) and `status` of HTTP. */
  readonly requests: Counter;
  readonly responseBytes: Counter;
  /** By `source`: cache, root, origin or stale. */
  readonly manifests: Counter;
  /** By `result`: given, none or failed. */
  readonly blockImages: Counter;
}

/** Registers the metrics of the room. */
export function mirrorMetrics(metrics: Metrics): MirrorMetrics {
  return {
    requests: metrics.counter({
      name: 'xylem_mirror_requests_total',
      help:
        'Requests to the registry mirror, by what was asked for (manifest, blob, other) and ' +
        'HTTP status.',
      labels: { kind: ['manifest', 'blob', 'other'], status: STATUSES },
    }),
    responseBytes: metrics.counter({
      name: 'xylem_mirror_response_bytes_total',
      help: 'Bytes of blobs handed to sockets by the registry mirror.',
    }),
    manifests: metrics.counter({
      name: 'xylem_manifests_total',
      help:
        'Manifests that were found, by source: cache, root, origin, stale (a tag while the ' +
        'registry is away).',
      labels: { source: ['cache', 'root', 'origin', 'stale'] },
    }),
    blockImages: metrics.counter({
      name: 'xylem_mirror_block_images_total',
      help:
        'Tags that clients which can mount block images asked for, by result: given (the block ' +
        'image), none (the original: there is none), failed (the original: it was not found).',
      labels: { result: ['given', 'none', 'failed'] },
    }),
  };
}
