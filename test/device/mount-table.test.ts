import { describe, expect, it } from 'vitest';
import { parseMountTable } from '../../src/device/mount-table.ts';

describe('parseMountTable()', () => {
  it('reads mounts with and without tags, and names with blanks', () => {
    const text = [
      '22 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw',
      '90 22 7:3 / /mnt/a\\040b\\134c ro,nodev shared:5 master:2 - ext4 /dev/loop3 ro,noload',
      '91 22 0:50 / /run/x ro - fuse.xylem xylem ro,user_id=0',
      'not a mount',
      '',
    ].join('\n');
    expect(parseMountTable(text)).toEqual([
      { mountPoint: '/', device: '8:2', type: 'ext4', source: '/dev/sda2', options: 'rw' },
      {
        mountPoint: '/mnt/a b\\c',
        device: '7:3',
        type: 'ext4',
        source: '/dev/loop3',
        options: 'ro,noload',
      },
      {
        mountPoint: '/run/x',
        device: '0:50',
        type: 'fuse.xylem',
        source: 'xylem',
        options: 'ro,user_id=0',
      },
    ]);
  });
});
