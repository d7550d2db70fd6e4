import { execFileSync } from 'node:child_process';
import { readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { describeWith, needs } from '../kit/requires.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { startSnapshotter } from './kit/served-snapshotter.ts';

describeWith('Snapshotter on a full disk', [needs.root], () => {
  const { signal } = new AbortController();

  it('makes no snapshot, leaves nothing of one, and goes on once there is room', async () => {
    const folder = tempFolder();
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=8m,nr_inodes=40', 'tmpfs', folder]);
    onTestFinished(() => void execFileSync('umount', [folder]));
    const { snapshotter, stop } = await startSnapshotter({ folder });
    onTestFinished(stop);
    // Room for the folder of a snapshot, and not for the folders in it.
    const fill = (): void => {
      for (let i = 0; ; i++) writeFileSync(join(folder, `filler-${i}`), '');
    };
    expect(fill).toThrow('ENOSPC');
    rmSync(join(folder, 'filler-0'));
    const wanted = { key: 'ns/1/c', parent: '', labels: {} };
    await expect(snapshotter.prepare(wanted, signal)).rejects.toThrow('ENOSPC');
    expect(snapshotter.list([])).toEqual([]);
    const left = ['snapshots', 'removed'].map((name) => join(folder, name));
    await expect.poll(() => left.flatMap((path) => readdirSync(path))).toEqual([]);
    for (let i = 1; i < 5; i++) rmSync(join(folder, `filler-${i}`));
    expect(await snapshotter.prepare(wanted, signal)).toHaveLength(1);
  });
});
