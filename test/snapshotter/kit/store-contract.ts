import { expect, it } from 'vitest';
import type { RecordStore } from '../../../src/snapshotter/store/record-store.ts';
import { record } from './records.ts';

/** What every store of records does. `reopened` closes a store and opens its content again. */
export function describesRecordStore(
  open: () => Promise<RecordStore>,
  reopened: (store: RecordStore) => Promise<RecordStore>,
): void {
  const [a, b, c] = ['a', 'b', 'c'].map((name, i) => record({ name, id: i + 1 }));

  it('is empty at first, and its first id is 1', async () => {
    const store = await open();
    expect(await store.open()).toEqual({ records: [], nextId: 1 });
    await store.close();
  });

  it('keeps what was written, over an end', async () => {
    if (a === undefined || b === undefined || c === undefined) throw new Error('three records');
    let store = await open();
    await store.open();
    await store.write({ puts: [a, b], deletes: [], nextId: 3 });
    const labels = { 'quote\'"': '\u{1f333}\n', __proto__: 'x' };
    const changed = { ...b, labels, updatedMs: 1_700_000_000_123, name: 'renamed' };
    await store.write({ puts: [changed, c], deletes: [1], nextId: 9 });
    store = await reopened(store);
    const { records, nextId } = await store.open();
    expect(records).toEqual([changed, c]);
    expect(nextId).toBe(9);
    await store.close();
  });

  it('keeps many at once', async () => {
    let store = await open();
    await store.open();
    const puts = Array.from({ length: 5000 }, (_, i) => record({ name: `n${i}`, id: i + 1 }));
    await store.write({ puts, deletes: [], nextId: 5001 });
    const deletes = puts.filter(({ id }) => id % 2 === 0).map(({ id }) => id);
    await store.write({ puts: [], deletes, nextId: 5001 });
    store = await reopened(store);
    expect((await store.open()).records).toHaveLength(2500);
    await store.close();
  });
}
