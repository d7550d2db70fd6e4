import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { MountRecords } from '../../src/device/mount/mount-records.ts';
import { tempFolder } from '../kit/temp-folder.ts';

describe('MountRecords.open()', () => {
  it.each([
    ['below a file', () => join(file(), 'state'), 'ENOTDIR'],
    ['in the place of a file', file, 'ENOTDIR'],
    ['below /proc', () => '/proc/xylem/state', 'ENOENT'],
  ])('says which key names a folder %s that cannot be made', (_, place, code) => {
    const stateDir = place();
    const records = new MountRecords({ stateDir, key: 'device.stateDir' });
    expect(() => records.open()).toThrow(
      expect.objectContaining({
        name: 'DeviceError',
        message: expect.stringMatching(
          `^cannot make the folder ${stateDir}/mounts .*\\(device.stateDir\\): ${code}`,
        ) as string,
      }) as Error,
    );
  });
});

function file(): string {
  const path = join(tempFolder(), 'file');
  writeFileSync(path, '');
  return path;
}
