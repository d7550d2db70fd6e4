import { Tally, type Counter, type Gauge, type Metrics } from '../../runtime/metrics.ts';

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
    labelNames: ['source', 'kind'],
  });
  const failed = metrics.counter({
    name: 'xylem_read_failed_total',
    help: 'Demand reads of this host that failed.',
    labelNames: ['code'],
  });
  return {
    blockBytes: new Tally(blockBytes, 'source'),
    failed: new Tally(failed, 'code'),
    rejected: metrics.counter({
      name: 'xylem_block_rejected_total',
      help:
        'Blocks refused: wrong bytes or attestation, a root that this host does not know, ' +
        'a blob of another size, or one of which wrong blocks were found.',
      labelNames: ['reason'],
    }),
    lost: metrics.counter({
      name: 'xylem_peer_lost_total',
      help: 'Times that this host gave up a peer for a while.',
      labelNames: ['reason'],
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
      labelNames: ['code'],
    }),
    heldSeconds: metrics.counter({
      name: 'xylem_limit_held_seconds_total',
      help: 'Time in which the upload or the download limit held back blocks.',
      labelNames: ['limit'],
    }),
    blobChecks: metrics.counter({
      name: 'xylem_blob_checks_total',
      help: 'Blobs hashed when complete, by result: good, bad, incomplete, failed, skipped.',
      labelNames: ['result'],
    }),
    distrusted: metrics.counter({
      name: 'xylem_blobs_distrusted_total',
      help:
        'Blobs distrusted since the start: this root found that the content does not match the ' +
        'digest (content), a root said so (root), or a host showed a wrong block (report).',
      labelNames: ['cause'],
    }),
    wholeReads: metrics.counter({
      name: 'xylem_whole_reads_total',
      help: 'Blobs that a root read whole to hash them, by result: right, wrong, failed.',
      labelNames: ['result'],
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
