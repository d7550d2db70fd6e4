import { viewOf } from '../image/binary.ts';
import { readPart, type ByteSink, type ByteSource } from '../image/byte-source.ts';
import { ConvertError } from './errors.ts';

const SUPERBLOCK_OFFSET = 1024;
const SUPERBLOCK_BYTES = 1024;
const SUPERBLOCK_MAGIC = 0xef53;
const INCOMPAT_64BIT = 0x80;
const DESCRIPTOR_BYTES_32 = 32;

/** Inodes of 256 bytes, changed at a time. */
const CHUNK_INODES = 4096;

/** Geometry of an ext4, from its superblock (kernel: Documentation/filesystems/ext4). */
interface Geometry {
  readonly blockBytes: number;
  readonly inodeBytes: number;
  readonly inodesPerGroup: number;
  readonly groupCount: number;
  readonly descriptorBytes: number;
}

/**
 * Sets the access and change times of each inode to its modification time. They show when the
 * directory was read or copied: no container should see that, and it would make each conversion
 * different. Only for file systems of `makeExt4()`: without checksums over inodes, with the
 * descriptors in the second block. Throws ConvertError, or ImageError when the file is too short.
 */
export async function normalizeTimes(disk: ByteSource & ByteSink): Promise<void> {
  const geometry = await readGeometry(disk);
  const { groupCount, descriptorBytes, blockBytes, inodesPerGroup, inodeBytes } = geometry;
  const descriptors = await readPart(
    disk,
    blockBytes,
    groupCount * descriptorBytes,
    'ext4 descriptors',
  );
  const view = viewOf(descriptors);
  for (let group = 0; group < groupCount; group++) {
    const at = group * descriptorBytes;
    const high = descriptorBytes > DESCRIPTOR_BYTES_32 ? view.getUint32(at + 0x28, true) : 0;
    const table = (high * 2 ** 32 + view.getUint32(at + 8, true)) * blockBytes;
    for (let first = 0; first < inodesPerGroup; first += CHUNK_INODES) {
      const count = Math.min(CHUNK_INODES, inodesPerGroup - first);
      const offset = table + first * inodeBytes;
      const inodes = await readPart(disk, offset, count * inodeBytes, 'ext4 inode table');
      if (setTimes(inodes, inodeBytes)) await disk.write(offset, inodes);
    }
  }
}

async function readGeometry(disk: ByteSource): Promise<Geometry> {
  const view = viewOf(await readPart(disk, SUPERBLOCK_OFFSET, SUPERBLOCK_BYTES, 'ext4 superblock'));
  if (view.getUint16(56, true) !== SUPERBLOCK_MAGIC) {
    throw new ConvertError('mke2fs made a file without an ext4 superblock', {
      code: 'tool',
      program: 'mke2fs',
    });
  }
  const wide = (view.getUint32(96, true) & INCOMPAT_64BIT) !== 0;
  const blocks = view.getUint32(4, true) + (wide ? view.getUint32(0x150, true) * 2 ** 32 : 0);
  return {
    blockBytes: 1024 << view.getUint32(24, true),
    inodeBytes: view.getUint16(88, true),
    inodesPerGroup: view.getUint32(40, true),
    groupCount: Math.ceil(blocks / view.getUint32(32, true)),
    descriptorBytes: wide ? view.getUint16(254, true) : DESCRIPTOR_BYTES_32,
  };
}

/**
 * Offsets in an inode: 8 atime, 12 ctime, 16 mtime; 132, 136 and 140 the fractions of ctime, mtime
 * and atime.
 */
function setTimes(inodes: Uint8Array, inodeBytes: number): boolean {
  const view = viewOf(inodes);
  let changed = false;
  for (let at = 0; at < inodes.length; at += inodeBytes) {
    if (view.getUint16(at, true) === 0) continue;
    const seconds = view.getUint32(at + 16, true);
    const fraction = view.getUint32(at + 136, true);
    view.setUint32(at + 8, seconds, true);
    view.setUint32(at + 12, seconds, true);
    view.setUint32(at + 132, fraction, true);
    view.setUint32(at + 140, fraction, true);
    changed = true;
  }
  return changed;
}
