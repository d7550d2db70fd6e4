import { STORE_CODES } from '../../blockstore/metrics.ts';
import type { Verdict } from '../../image/attestation.ts';
import { allOf, Tally, type Counter, type Gauge, type Metrics } from '../../runtime/metrics.ts';
import type { TransferErrorDetail } from '../contracts/errors.ts';
import type { BlockSource, LostReason } from '../core/effects.ts';

const SOURCES = allOf<BlockSource>({
  memory: true,
  disk: true,
  parent: true,
  alternate: true,
  root: true,
  origin: true,
  fallback: true,
  'own-way': true,
});

const FAILURES = allOf<TransferErrorDetail['code']>({
  deadline: true,
  'unknown-blob': true,
  range: true,
  'size-differs': true,
  overloaded: true,
  origin: true,
  cancelled: true,
});

const REJECTED = allOf<Exclude<Verdict, 'good'>>({
  bad: true,
  'unknown-signer': true,
  'other-size': true,
  'not-whole': true,
});

const LOST = allOf<LostReason>({
  silent: true,
  unreachable: true,
  corrupt: true,
  protocol: true,
  'unknown-blob': true,
});

/** Why a put of the store fails. */
const UNSTORED = [...STORE_CODES, 'unknown'];

/** What the way of a block counts. Labels are fixed sets. */
export interface TransferMetrics {
  /** `source`: BlockSource; `kind`: demand or prefetch. */
  readonly blockBytes: Tally;
  /**
   * Blocks refused, by `reason`: `bad` (wrong bytes or attestation), `unknown-signer`,
   * `other-size` or `not-whole`.
   */
  readonly rejected: Counter;
  /** Peers given up, by `reason`. */
  readonly lost: Counter;
  /** Demand reads of this host that failed, by `code`. */
  readonly failed: Tally;
  /** Bytes sent to peers. */
  readonly sentBytes: Counter;
  readonly waiting: Gauge;
  /** Blocks that were not stored, by `code`: passed on all the same. */
  readonly unstored: Counter;
  /** Time in which a limit held back blocks, by `limit`: `upload` or `download`. */
  readonly heldSeconds: Counter;
  /** Blobs that were hashed when complete, by `result`. */
  readonly blobChecks: Counter;
  /** Blobs distrusted, by `cause`: `content` (a root hashed it), `root` (its word), `report`. */
  readonly distrusted: Counter;
  /** Blobs that a root read whole to hash them, by `result`. */
  readonly wholeReads: Counter;
}

/** Registers the metrics of the room. */
export function transferMetrics(metrics: Metrics): TransferMetrics {
  const blockBytes = metrics.counter({
    name: 'xylem_block_bytes_total',
    help: 'Block bytes that became available on this host, by source.',
    labels: { source: SOURCES, kind: ['demand', 'prefetch'] },
  });
  const failed = metrics.counter({
    name: 'xylem_read_failed_total',
    help: 'Demand reads of this host that failed.',
    labels: { code: FAILURES },
  });
  return {
    blockBytes: new Tally(blockBytes, 'source'),
    failed: new Tally(failed, 'code'),
    rejected: metrics.counter({
      name: 'xylem_block_rejected_total',
      help:
        'Blocks refused: wrong bytes or attestation, a root that this host does not know, ' +
        'a blob of another size, or one of which wrong blocks were found.',
      labels: { reason: REJECTED },
    }),
    lost: metrics.counter({
      name: 'xylem_peer_lost_total',
      help: 'Times that this host gave up a peer for a while.',
      labels: { reason: LOST },
    }),
    sentBytes: metrics.counter({
      name: 'xylem_block_sent_bytes_total',
      help: 'Block bytes sent to peers.',
    }),
    waiting: metrics.gauge({
      name: 'xylem_reads_waiting',
      help: 'Reads that wait for a block, of this host and of peers.',
    }),
    unstored: metrics.counter({
      name: 'xylem_block_unstored_total',
      help: 'Blocks that could not be stored and were passed on all the same.',
      labels: { code: UNSTORED },
    }),
    heldSeconds: metrics.counter({
      name: 'xylem_limit_held_seconds_total',
      help: 'Time in which the upload or the download limit held back blocks.',
      labels: { limit: ['upload', 'download'] },
    }),
    blobChecks: metrics.counter({
      name: 'xylem_blob_checks_total',
      help: 'Blobs hashed when complete, by result: good, bad, incomplete, failed, skipped.',
      labels: { result: ['good', 'bad', 'incomplete', 'failed', 'skipped'] },
    }),
    distrusted: metrics.counter({
      name: 'xylem_blobs_distrusted_total',
      help:
        'Blobs distrusted since the start: this root found that the content does not match the ' +
        'digest (content), a root said so (root), or a host showed a wrong block (report).',
      labels: { cause: ['content', 'root', 'report'] },
    }),
    wholeReads: metrics.counter({
      name: 'xylem_whole_reads_total',
      help: 'Blobs that a root read whole to hash them, by result: right, wrong, failed.',
      labels: { result: ['right', 'wrong', 'failed'] },
    }),
  };
}

/** Counts the time in which limits held something back, from its sums. */
export class HeldTime {
  readonly #counter: Counter;
  readonly #countedMs = { upload: 0, download: 0 };

  constructor(metrics: TransferMetrics) {
    this.#counter = metrics.heldSeconds;
  }

  note(heldMs: { readonly upload: number; readonly download: number }): void {
    for (const limit of ['upload', 'download'] as const) {
      const moreMs = heldMs[limit] - this.#countedMs[limit];
      if (moreMs > 0) this.#counter.inc({ limit }, moreMs / 1000);
      this.#countedMs[limit] = heldMs[limit];
    }
  }
}
