import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { makeFolders, makeFoldersSoon } from '../../../src/runtime/node/folders.ts';
import { describeWith, needs } from '../../kit/requires.ts';
import { tempFolder } from '../../kit/temp-folder.ts';

const WAYS = {
  'makeFolders()': (path: string, mode?: number) =>
    Promise.resolve().then(() => makeFolders(path, mode)),
  'makeFoldersSoon()': makeFoldersSoon,
};

describe.each(Object.entries(WAYS))('%s', (_, make) => {
  it('makes a folder and those above it, and leaves one that is there', async () => {
    const folder = join(tempFolder(), 'a/b/c');
    await make(folder, 0o700);
    expect(statSync(folder).mode & 0o777).toBe(0o700);
    await make(folder);
    await Promise.all(Array.from({ length: 8 }, () => make(join(folder, 'd/e/f'))));
    expect(existsSync(join(folder, 'd/e/f'))).toBe(true);
  });

  it('says of a file in the way, and of /proc, that it cannot', async () => {
    const folder = tempFolder();
    writeFileSync(join(folder, 'file'), '');
    await expect(make(join(folder, 'file'))).rejects.toThrow('EEXIST');
    await expect(make(join(folder, 'file/a'))).rejects.toThrow('ENOTDIR');
    await expect(make('/proc/x')).rejects.toThrow('ENOENT');
    await expect(make('/proc/x/y/z')).rejects.toThrow('ENOENT');
  });
});

describeWith('a read-only file system', [needs.root, needs.program('mount')], () => {
  it.each(Object.entries(WAYS))('%s says that it is one', async (_, make) => {
    const root = tempFolder();
    execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', root]);
    try {
      mkdirSync(join(root, 'there'));
      execFileSync('mount', ['-o', 'remount,ro', root]);
      await make(join(root, 'there'));
      await expect(make(join(root, 'a/b/c'))).rejects.toThrow('EROFS');
    } finally {
      execFileSync('umount', [root]);
    }
  });
});
