import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { MountRecords } from '../../src/device/mount/mount-records.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { tempFolder } from '../kit/temp-folder.ts';

describeWith('MountRecords.add()', [needs.root], () => {
  it('leaves nothing on a full disk, and works once there is room', () => {
    const [stateDir, targets] = [tempFolder(), tempFolder()];
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', stateDir]);
    onTestFinished(() => void execFileSync('umount', [stateDir]));
    const records = new MountRecords({ stateDir, key: 'device.stateDir' });
    records.open();
    const filler = join(stateDir, 'filler');
    expect(() => writeFileSync(filler, Buffer.alloc(128 * 1024))).toThrow('ENOSPC');
    const target = join(targets, 'new');
    mkdirSync(target);
    const mount = { target, ownsTarget: true, mounted: undefined };
    expect(() => records.add('a', mount)).toThrow('ENOSPC');
    expect(readdirSync(records.dir)).toEqual([]);
    expect(existsSync(target)).toBe(false);
    rmSync(filler);
    mkdirSync(target);
    expect(records.list()).toEqual([]);
    expect(records.add('a', mount)).toMatchObject(mount);
    expect(records.list()).toHaveLength(1);
  });
});
