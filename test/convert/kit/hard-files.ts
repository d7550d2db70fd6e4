import { execFileSync } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';

/** A program for `python()`: files of all kinds that a tar holds, some of them hard to write. */
export const HARD_FILES = String.raw`
import os, stat
os.makedirs('usr/bin'); os.makedirs('gone'); os.makedirs('empty')
open('gone/a', 'w').write('a')
open('usr/bin/tool', 'wb').write(os.urandom(3_000_000))
os.link('usr/bin/tool', 'usr/bin/same')
os.symlink('../bin/tool', 'usr/bin/link'); os.symlink('x' * 3000, 'far')
os.link('usr/bin/link', 'usr/bin/link2', follow_symlinks=False)
os.makedirs('d' * 200 + '/' + 'e' * 200); open('d' * 200 + '/' + 'f' * 255, 'w').write('long')
open(b'\xff\xfe raw', 'w').write('raw'); open('grün', 'w').write('')
with open('sparse', 'wb') as f:
  f.truncate(9_000_000); f.seek(5_000_000); f.write(b'middle')
os.mknod('null', stat.S_IFCHR | 0o666, os.makedev(1, 3)); os.mkfifo('pipe')
os.mknod('disk', stat.S_IFBLK | 0o660, os.makedev(259, 70000))
os.chown('usr/bin/same', 3_000_000, 2_200_000); os.chmod('usr/bin/same', 0o4755)
os.chmod('empty', 0o1777)
os.setxattr('sparse', 'user.a', b'1=2\n\x00\xff'); os.setxattr('sparse', 'user.b', b'')
os.utime('grün', ns=(0, 1_500_000_000_123_456_789)); os.utime('sparse', ns=(0, -1_500_000_000))
os.utime('usr', (5, 5))
`;

/** What GNU tar makes of a folder, or of some names in it, with all that it can keep. */
export function tarOfFolder(folder: string, names: readonly string[] = ['.']): Uint8Array {
  const how = ['--format=posix', '--xattrs', '--xattrs-include=*', '--numeric-owner'];
  execFileSync('tar', [...how, '-C', folder, '-cf', `${folder}.tar`, ...names]);
  const bytes = new Uint8Array(readFileSync(`${folder}.tar`));
  rmSync(`${folder}.tar`);
  return bytes;
}
