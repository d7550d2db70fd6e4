import type { BigIntStats } from 'node:fs';
import type { ComparedInode } from './check/compare-trees.ts';
import type { InodeType } from './check/ext4-inode.ts';
import type { TarTime } from './tar/tar-entry.ts';

const NANOSECONDS = 1_000_000_000n;

/** What the kernel says of a file. */
export function factsOfStats(stats: BigIntStats): ComparedInode {
  return {
    number: Number(stats.ino),
    type: typeOf(stats),
    mode: Number(stats.mode & 0o7777n),
    uid: Number(stats.uid),
    gid: Number(stats.gid),
    sizeBytes: Number(stats.size),
    mtime: timeOf(stats.mtimeNs),
    linkCount: Number(stats.nlink),
    ...deviceOf(stats.rdev),
  };
}

function typeOf(stats: BigIntStats): InodeType {
  if (stats.isFile()) return 'file';
  if (stats.isDirectory()) return 'directory';
  if (stats.isSymbolicLink()) return 'symlink';
  if (stats.isCharacterDevice()) return 'character-device';
  if (stats.isBlockDevice()) return 'block-device';
  return stats.isFIFO() ? 'fifo' : 'socket';
}

function timeOf(nanoseconds: bigint): TarTime {
  const rest = ((nanoseconds % NANOSECONDS) + NANOSECONDS) % NANOSECONDS;
  return { seconds: Number((nanoseconds - rest) / NANOSECONDS), nanoseconds: Number(rest) };
}

/** The numbers of a device (makedev(3) of glibc). */
function deviceOf(device: bigint): { readonly deviceMajor: number; readonly deviceMinor: number } {
  return {
    deviceMajor: Number(((device >> 8n) & 0xfffn) | ((device >> 32n) & 0xfffff000n)),
    deviceMinor: Number((device & 0xffn) | ((device >> 12n) & 0xffffff00n)),
  };
}
