import { readPart, type ByteSource } from '../../image/byte-source.ts';
import { viewOf } from '../../image/binary.ts';
import { damaged, ImageError, outOfRange } from '../../image/errors.ts';

const SUPERBLOCK_OFFSET = 1024;
const SUPERBLOCK_BYTES = 1024;
const MAGIC = 0xef53;

/** Of an inode in file systems of revision 0. */
const OLD_INODE_BYTES = 128;
const INODE_BYTES_MAX = 4096;

/** Blocks of 1 to 64 KiB. */
const LOG_BLOCK_SIZE_MAX = 6;

/** Most groups: those of 1 TiB in blocks of 1 KiB. */
const GROUP_COUNT_MAX = 131_072;

const GROUP_DESCRIPTOR_BYTES = 32;

const INCOMPAT_RECOVER = 0x4;
const INCOMPAT_META_BG = 0x10;
const INCOMPAT_64BIT = 0x80;

/** Features of the format that a reader must know, and is not told here. */
const UNREADABLE: readonly (readonly [bit: number, name: string])[] = [
  [0x1, 'compression'],
  [INCOMPAT_RECOVER, 'a journal that was not replayed'],
  [0x8, 'an external journal'],
  [0x1000, 'data in directory entries'],
  [0x10000, 'encryption'],
];

/**
 * From the lowest bit: filetype, meta_bg, extents, 64bit, mmp, flex_bg, ea_inode, csum_seed,
 * largedir, inline_data, casefold.
 */
const READABLE = 0x2e7d2;

const RO_COMPAT_SPARSE_SUPER = 0x1;

/** Where the parts of an ext4 file system lie. */
export interface Ext4Layout {
  readonly blockSizeBytes: number;
  readonly blockCount: number;
  readonly inodeCount: number;
  readonly inodeSizeBytes: number;
  readonly inodesPerGroup: number;
  /** Number of `lost+found`, if it is the usual one. */
  readonly firstInode: number;
  /** Block of the inode table of each group. */
  readonly inodeTables: Float64Array;
}

interface Superblock extends Omit<Ext4Layout, 'inodeTables'> {
  readonly firstDataBlock: number;
  readonly blocksPerGroup: number;
  readonly descriptorBytes: number;
  readonly hasMetaGroups: boolean;
  readonly firstMetaGroup: number;
  readonly isSparse: boolean;
}

/** Reads the superblock and the group descriptors. Throws ImageError. */
export async function readLayout(source: ByteSource): Promise<Ext4Layout> {
  const bytes = await readPart(source, SUPERBLOCK_OFFSET, SUPERBLOCK_BYTES, 'ext4 superblock');
  const superblock = parseSuperblock(viewOf(bytes), source.sizeBytes);
  const { inodeCount, inodesPerGroup, descriptorBytes, blockSizeBytes } = superblock;
  const groupCount = Math.ceil(inodeCount / inodesPerGroup);
  if (groupCount > GROUP_COUNT_MAX) {
    throw outOfRange('ext4 count of groups', groupCount, `at most ${GROUP_COUNT_MAX} are read`);
  }
  const inodeTables = new Float64Array(groupCount);
  const perBlock = blockSizeBytes / descriptorBytes;
  for (let first = 0; first < groupCount; first += perBlock) {
    const block = descriptorBlock(superblock, first / perBlock);
    const at = block * blockSizeBytes;
    const view = viewOf(await readPart(source, at, blockSizeBytes, 'ext4 group descriptors'));
    for (let i = 0; i < perBlock && first + i < groupCount; i++) {
      const start = i * descriptorBytes;
      const low = view.getUint32(start + 0x8, true);
      const high = descriptorBytes > 32 ? view.getUint32(start + 0x28, true) : 0;
      inodeTables[first + i] = low + high * 2 ** 32;
    }
  }
  return { ...superblock, inodeTables };
}

function parseSuperblock(view: DataView, sizeBytes: number): Superblock {
  const u16 = (at: number): number => view.getUint16(at, true);
  const u32 = (at: number): number => view.getUint32(at, true);
  if (u16(0x38) !== MAGIC) {
    throw damaged('ext4 superblock', 'it has no magic number: is this device another file system?');
  }
  const isOld = u32(0x4c) === 0;
  const incompat = isOld ? 0 : u32(0x60);
  checkFeatures(incompat);
  const logBlockSize = u32(0x18);
  if (logBlockSize > LOG_BLOCK_SIZE_MAX) {
    throw outOfRange('ext4 log_block_size', logBlockSize, `it is at most ${LOG_BLOCK_SIZE_MAX}`);
  }
  const blockSizeBytes = 1024 * 2 ** logBlockSize;
  const has64Bits = (incompat & INCOMPAT_64BIT) !== 0;
  const blockCount = u32(0x4) + (has64Bits ? u32(0x150) * 2 ** 32 : 0);
  if (blockCount * blockSizeBytes > sizeBytes) {
    throw outOfRange('ext4 blocks_count', blockCount, `the device has ${sizeBytes} bytes`);
  }
  const descriptorBytes = has64Bits ? u16(0xfe) : GROUP_DESCRIPTOR_BYTES;
  if (descriptorBytes < 32 || descriptorBytes > 1024 || !isPowerOfTwo(descriptorBytes)) {
    throw outOfRange('ext4 desc_size', descriptorBytes, 'it is a power of two from 32 to 1024');
  }
  const inodeSizeBytes = isOld ? OLD_INODE_BYTES : u16(0x58);
  const inodeMax = Math.min(INODE_BYTES_MAX, blockSizeBytes);
  if (inodeSizeBytes < 128 || inodeSizeBytes > inodeMax || !isPowerOfTwo(inodeSizeBytes)) {
    throw outOfRange('ext4 inode_size', inodeSizeBytes, `it is a power of two up to ${inodeMax}`);
  }
  const [inodeCount, inodesPerGroup, blocksPerGroup] = [u32(0), u32(0x28), u32(0x20)];
  if (inodesPerGroup === 0 || blocksPerGroup === 0 || inodeCount === 0) {
    throw damaged('ext4 superblock', 'it has groups of no inodes or no blocks');
  }
  if (inodeCount * inodeSizeBytes > sizeBytes) {
    throw outOfRange('ext4 inodes_count', inodeCount, `the device has ${sizeBytes} bytes`);
  }
  return {
    ...{ blockSizeBytes, blockCount, inodeCount, inodeSizeBytes, inodesPerGroup, blocksPerGroup },
    firstInode: isOld ? 11 : u32(0x54),
    firstDataBlock: u32(0x14),
    descriptorBytes,
    hasMetaGroups: (incompat & INCOMPAT_META_BG) !== 0,
    firstMetaGroup: u32(0x104),
    isSparse: (u32(0x64) & RO_COMPAT_SPARSE_SUPER) !== 0,
  };
}

function checkFeatures(incompat: number): void {
  const [, name] = UNREADABLE.find(([bit]) => (incompat & bit) !== 0) ?? [];
  const unknown = incompat & ~READABLE;
  if (name === undefined && unknown === 0) return;
  const what = name ?? `the unknown features 0x${(unknown >>> 0).toString(16)}`;
  throw new ImageError(`cannot read the ext4 file system: it has ${what}`, {
    code: 'unsupported',
    part: 'ext4 features',
  });
}

/** The block of the n-th block of group descriptors. */
function descriptorBlock(superblock: Superblock, n: number): number {
  const { firstDataBlock, hasMetaGroups, firstMetaGroup, blockSizeBytes } = superblock;
  if (!hasMetaGroups || n < firstMetaGroup) return firstDataBlock + 1 + n;
  const group = n * (blockSizeBytes / superblock.descriptorBytes);
  const hasCopy = !superblock.isSparse || hasSuperblock(group);
  return firstDataBlock + group * superblock.blocksPerGroup + (hasCopy ? 1 : 0);
}

/** With `sparse_super`, groups 0, 1 and the powers of 3, 5 and 7 have copies of the superblock. */
function hasSuperblock(group: number): boolean {
  return (
    group <= 1 ||
    [3, 5, 7].some((base) => base ** Math.round(Math.log(group) / Math.log(base)) === group)
  );
}

const isPowerOfTwo = (value: number): boolean => value > 0 && (value & (value - 1)) === 0;
