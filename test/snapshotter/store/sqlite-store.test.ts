import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { describe, expect, it } from 'vitest';
import { SqliteStore } from '../../../src/snapshotter/store/sqlite-store.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import { MemoryStore } from '../kit/memory-store.ts';
import { record } from '../kit/records.ts';
import { describesRecordStore } from '../kit/store-contract.ts';

describe('MemoryStore', () => {
  describesRecordStore(
    async () => new MemoryStore(),
    async (store) => store,
  );
});

describe('SqliteStore', () => {
  let path = '';

  describesRecordStore(
    async () => {
      path = join(tempFolder(), 'metadata.db');
      return new SqliteStore({ path });
    },
    async (store) => {
      await store.close();
      return new SqliteStore({ path });
    },
  );

  it('has the tables that docs/ON_DISK_FORMAT.md describes', async () => {
    path = join(tempFolder(), 'metadata.db');
    const store = new SqliteStore({ path });
    await store.open();
    const kept = record({ id: 7, name: 'default/1/key', labels: { a: 'b' } });
    await store.write({ puts: [kept], deletes: [], nextId: 8 });
    await store.close();
    const database = new DatabaseSync(path);
    const all = (query: string): unknown =>
      database
        .prepare(query)
        .all()
        .map((row) => ({ ...row }));
    expect(all('SELECT * FROM snapshots')).toEqual([{ id: 7, record: JSON.stringify(kept) }]);
    expect(JSON.stringify(kept)).toBe(
      '{"id":7,"parent":"","kind":"committed","layer":{"kind":"files"},"labels":{"a":"b"},' +
        '"createdMs":0,"updatedMs":0,"usage":{"sizeBytes":0,"inodes":0},"heldInBoot":"",' +
        '"name":"default/1/key"}',
    );
    expect(all('SELECT * FROM counter')).toEqual([{ next_id: 8 }]);
    expect(all('PRAGMA user_version')).toEqual([{ user_version: 1 }]);
    expect(all('PRAGMA journal_mode')).toEqual([{ journal_mode: 'wal' }]);
    database.close();
  });

  it('refuses a file of another kind or version, a second open, and use without one', async () => {
    const folder = tempFolder();
    writeFileSync(join(folder, 'text'), 'no database\n'.repeat(1000));
    const text = new SqliteStore({ path: join(folder, 'text') });
    await expect(text.open()).rejects.toMatchObject({ code: 'metadata' });
    await text.close();
    const database = new DatabaseSync(join(folder, 'newer'));
    database.exec('PRAGMA user_version = 2');
    database.close();
    const newer = new SqliteStore({ path: join(folder, 'newer') });
    await expect(newer.open()).rejects.toThrow('it has version 2, and this program reads 1');
    await newer.close();
    const batch = { puts: [], deletes: [], nextId: 1 };
    await expect(newer.write(batch)).rejects.toThrow('it is not open');
    const missing = new SqliteStore({ path: join(folder, 'none', 'x') });
    await expect(missing.open()).rejects.toThrow('unable to open database file');
    await missing.close();
  });
});
