import type { SnapshotRecord } from '../../../src/snapshotter/catalog/snapshot.ts';
import { SnapshotError } from '../../../src/snapshotter/errors.ts';
import type {
  RecordBatch,
  RecordStore,
  StoredRecords,
} from '../../../src/snapshotter/store/record-store.ts';

/**
 * Records in memory. `gate` is awaited before each write; a write fails, and nothing of it is kept,
 * when the gate rejects.
 */
export class MemoryStore implements RecordStore {
  gate: () => Promise<void> = () => Promise.resolve();
  readonly batches: RecordBatch[] = [];
  readonly #records = new Map<number, SnapshotRecord>();
  #nextId = 1;

  async open(): Promise<StoredRecords> {
    return { records: [...this.#records.values()], nextId: this.#nextId };
  }

  async write(batch: RecordBatch): Promise<void> {
    try {
      await this.gate();
    } catch (cause) {
      throw new SnapshotError('the disk is full', { code: 'metadata' }, { cause });
    }
    this.batches.push(batch);
    for (const record of batch.puts) this.#records.set(record.id, record);
    for (const id of batch.deletes) this.#records.delete(id);
    this.#nextId = batch.nextId;
  }

  async close(): Promise<void> {}
}
