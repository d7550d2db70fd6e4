import { mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { NodeDisk } from '../../../src/runtime/node/disk.ts';
import { tempFolder } from '../../kit/temp-folder.ts';

describe('NodeDisk', () => {
  it('DiskFile.write() and read() work at offsets, with holes between', async () => {
    const disk = new NodeDisk({ root: tempFolder() });
    const file = await disk.open('file', 'write');
    await file.write(Uint8Array.of(1, 2, 3), 10_000);
    await file.sync();
    const target = new Uint8Array(5).fill(9);
    expect(await file.read(target, 9_998)).toBe(5);
    expect([...target]).toEqual([0, 0, 1, 2, 3]);
    expect(await file.read(target, 10_002)).toBe(1);
    expect(await file.read(target, 10_003)).toBe(0);
    await file.truncate(2);
    expect(await file.read(target, 0)).toBe(2);
    await file.close();
  });

  it('Disk.open() creates files for this user alone, and only for writes', async () => {
    const root = tempFolder();
    const disk = new NodeDisk({ root });
    await expect(disk.open('absent', 'read')).rejects.toMatchObject({
      code: 'not-found',
      detail: { path: join(root, 'absent') },
    });
    await disk.makeFolder('a/b');
    await disk.makeFolder('a/b');
    await (await disk.open('a/b/file', 'write')).close();
    expect(statSync(join(root, 'a/b/file')).mode & 0o777).toBe(0o600);
    expect(statSync(join(root, 'a')).mode & 0o777).toBe(0o700);
  });

  it('DiskFile.write() rejects on a file opened for reads, and on a full disk', async () => {
    const root = tempFolder();
    writeFileSync(join(root, 'file'), 'abc');
    const file = await new NodeDisk({ root }).open('file', 'read');
    await expect(file.write(new Uint8Array(1), 0)).rejects.toMatchObject({ code: 'io' });
    await file.close();
    const full = await new NodeDisk({ root: '/dev' }).open('full', 'write');
    await expect(full.write(new Uint8Array(1), 0)).rejects.toMatchObject({ code: 'no-space' });
    await full.close();
  });

  it('Disk.list(), rename() and remove() work on files and folders', async () => {
    const root = tempFolder();
    const disk = new NodeDisk({ root });
    await disk.makeFolder('folder/below');
    writeFileSync(join(root, 'one'), '1');
    writeFileSync(join(root, 'two'), '2');
    await disk.rename('one', 'two');
    await disk.syncFolder('');
    const entries = [...(await disk.list(''))].sort((a, b) => (a.name < b.name ? -1 : 1));
    expect(entries).toEqual([
      { name: 'folder', kind: 'folder' },
      { name: 'two', kind: 'file' },
    ]);
    await disk.remove('folder');
    await disk.remove('folder');
    expect(readdirSync(root)).toEqual(['two']);
    await expect(disk.list('folder')).rejects.toMatchObject({ code: 'not-found' });
    await expect(disk.rename('absent', 'x')).rejects.toMatchObject({ code: 'not-found' });
  });

  it('Disk.freeBytes() gives a count of bytes', async () => {
    expect(await new NodeDisk({ root: tempFolder() }).freeBytes()).toBeGreaterThan(0);
  });
});

describe('Disk.lock()', () => {
  it('Disk.lock() admits one holder at a time and leaves nothing behind', async () => {
    const root = tempFolder();
    const [a, b] = [new NodeDisk({ root }), new NodeDisk({ root })];
    const lock = await a.lock('');
    await expect(b.lock('')).rejects.toMatchObject({ code: 'locked' });
    await expect(b.lock('')).rejects.toThrow(`pid ${process.pid}`);
    await lock.release();
    await (await b.lock('')).release();
    expect(readdirSync(root)).toEqual([]);
  });

  it('Disk.lock() works in folders whose path is longer than the address of a socket', async () => {
    const root = join(tempFolder(), 'x'.repeat(200));
    mkdirSync(root);
    const disk = new NodeDisk({ root });
    const lock = await disk.lock('');
    await expect(disk.lock('')).rejects.toMatchObject({ code: 'locked' });
    await lock.release();
  });

  it('Disk.lock() never admits two of many simultaneous contenders', async () => {
    const root = tempFolder();
    const disk = new NodeDisk({ root });
    for (let round = 0; round < 10; round++) {
      const results = await Promise.allSettled(Array.from({ length: 5 }, () => disk.lock('')));
      const held = results.filter((result) => result.status === 'fulfilled');
      expect(held.length).toBeLessThanOrEqual(1);
      for (const result of held) await result.value.release();
    }
  });
});
