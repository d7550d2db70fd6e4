import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { SqliteStore } from '../../../src/snapshotter/store/sqlite-store.ts';
import { describeWith, needs } from '../../kit/requires.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import { record } from '../kit/records.ts';

describeWith('SqliteStore on a full disk', [needs.root, needs.program('mount')], () => {
  it('removes records all the same, also after it was opened there, and adds none', async () => {
    const folder = tempFolder();
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', folder]);
    try {
      const path = join(folder, 'metadata.db');
      const first = new SqliteStore({ path });
      await first.open();
      const records = [1, 2, 3].map((id) => record({ id, name: `default/${id}/key` }));
      await first.write({ puts: records, deletes: [], nextId: 4 });
      const big = record({ id: 4, name: 'x'.repeat(60_000) });
      const adding = { puts: [big], deletes: [], nextId: 5 };
      fill(folder);
      await expect(first.write(adding)).rejects.toThrow('full');
      await first.write({ puts: [], deletes: [1], nextId: 4 });
      await first.close();
      fill(folder);
      const second = new SqliteStore({ path });
      expect((await second.open()).records.map(({ id }) => id)).toEqual([2, 3]);
      fill(folder);
      await expect(second.write(adding)).rejects.toThrow('full');
      await second.write({ puts: [], deletes: [2], nextId: 4 });
      for (const name of readdirSync(folder)) {
        if (name.startsWith('filled-')) rmSync(join(folder, name));
      }
      await second.write(adding);
      expect(existsSync(`${path}-spare`)).toBe(true);
      await second.close();
      const third = new SqliteStore({ path });
      expect((await third.open()).records.map(({ id }) => id)).toEqual([3, 4]);
      await third.close();
    } finally {
      execFileSync('umount', ['-l', folder]);
    }
  });
});

/** Takes all room that is left. */
function fill(folder: string): void {
  const name = join(folder, `filled-${readdirSync(folder).length}`);
  expect(() => writeFileSync(name, Buffer.alloc(8 * 1024 * 1024))).toThrow('ENOSPC');
}
