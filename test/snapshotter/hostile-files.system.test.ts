import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { silentLogger } from '../../src/runtime/logger.ts';
import { SystemClock } from '../../src/runtime/node/clock.ts';
import { DiskUsage } from '../../src/snapshotter/files/disk-usage.ts';
import { SnapshotFolders } from '../../src/snapshotter/files/snapshot-folders.ts';
import { unpackedLayer } from '../../src/snapshotter/files/unpacked-layer.ts';
import { makeLayer } from '../kit/layers.ts';
import { needs } from '../kit/requires.ts';
import { tempFolder } from '../kit/temp-folder.ts';

/** Bytes of the tar before a layer. */
const TAR_PREFIX = 1536;

/** Runs a script of the shell in a folder. */
const shell = (folder: string, script: string): unknown =>
  execFileSync('sh', ['-c', script], { cwd: folder, stdio: 'ignore' });

describe('unpackedLayer()', () => {
  it.each(['overlaybd.commit', 'trace'])('opens no named pipe: %s', async (name) => {
    const folder = tempFolder();
    shell(folder, `mkfifo ${name}`);
    expect(await unpackedLayer(folder)).toEqual({ kind: 'files' });
  });

  it('follows no link to the layer of another image', async () => {
    const other = tempFolder();
    const layer = await makeLayer({ virtualSizeBytes: 4096, ranges: [] });
    writeFileSync(join(other, 'overlaybd.commit'), layer.subarray(TAR_PREFIX));
    expect(await unpackedLayer(other)).toMatchObject({ kind: 'block' });
    const folder = tempFolder();
    symlinkSync(join(other, 'overlaybd.commit'), join(folder, 'overlaybd.commit'));
    expect(await unpackedLayer(folder)).toEqual({ kind: 'files' });
  });

  it.skipIf(needs.root() !== undefined)('opens no device', async () => {
    const folder = tempFolder();
    shell(folder, 'mknod overlaybd.commit c 1 5');
    expect(await unpackedLayer(folder)).toEqual({ kind: 'files' });
  });
});

describe('SnapshotFolders', () => {
  it('removes folders that no path leads to, and names that are no text', async () => {
    const dir = tempFolder();
    const folders = new SnapshotFolders({ logger: silentLogger }, { dir });
    folders.open();
    folders.make(1);
    const { files } = folders.of(1);
    const name = 'd'.repeat(250);
    const deeper = `i=0; while [ $i -lt 40 ]; do mkdir ${name}; cd ${name}; i=$((i+1)); done`;
    shell(files, `${deeper}; echo x > file`);
    shell(files, `mkdir "$(printf '\\377')"; cd "$(printf '\\377')"; ${deeper}`);
    folders.remove(1);
    await folders.settled();
    expect(existsSync(files)).toBe(false);
    expect(readdirSync(join(dir, 'removed'))).toEqual([]);
  });
});

describe('DiskUsage', () => {
  it('counts files whose names are no text', async () => {
    const folder = tempFolder();
    mkdirSync(join(folder, 'a'));
    shell(folder, `mkdir "$(printf '\\377')"; head -c 100000 /dev/zero > "$(printf '\\377')/big"`);
    const { sizeBytes, inodes } = await new DiskUsage({ clock: new SystemClock() }).now(folder);
    expect(inodes).toBe(4);
    expect(sizeBytes).toBeGreaterThanOrEqual(100_000 + statSync(folder).blocks * 512);
  });
});
