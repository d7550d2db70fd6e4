import type { SnapshotRecord } from '../catalog/snapshot.ts';

/** What is written at once: all of it or nothing. */
export interface RecordBatch {
  readonly puts: readonly SnapshotRecord[];
  /** Ids of the records that go. */
  readonly deletes: readonly number[];
  readonly nextId: number;
}

/** What a store holds. */
export interface StoredRecords {
  readonly records: readonly SnapshotRecord[];
  readonly nextId: number;
}

/**
 * Where the records of snapshots are kept.
 *
 * Life: `open()`, which gives all that was kept -> `write()` one after another -> `close()`.
 */
export interface RecordStore {
  /** Rejects with SnapshotError `metadata`. */
  open(): Promise<StoredRecords>;
  /**
   * Resolves when the batch survives the end of the process and of the power; rejects with
   * SnapshotError `metadata` when nothing of it is kept.
   */
  write(batch: RecordBatch): Promise<void>;
  close(): Promise<void>;
}
