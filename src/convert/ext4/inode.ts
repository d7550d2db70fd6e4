import { viewOf } from '../../image/binary.ts';
import type { TarTime } from '../tar/tar-entry.ts';

/** Bytes of an inode. */
export const INODE_BYTES = 256;

/** File types in the mode of an inode (stat(2)). */
const S_IFMT = 0o170000;
const MODE = {
  fifo: 0o010000,
  'character-device': 0o020000,
  directory: 0o040000,
  'block-device': 0o060000,
  file: 0o100000,
  symlink: 0o120000,
} as const;

/** What an inode is. */
export type InodeType = keyof typeof MODE;

/** The type of file in a directory entry. */
export const ENTRY_TYPE: Readonly<Record<InodeType, number>> = {
  file: 1,
  directory: 2,
  'character-device': 3,
  'block-device': 4,
  fifo: 5,
  symlink: 7,
};

/** First and last second that ext4 keeps: 34 bits, from 1901 to 2446. */
const TIME_SECONDS_MIN = -(2 ** 31);
const TIME_SECONDS_MAX = 2 ** 34 - 2 ** 31 - 1;

const EXTRA_BYTES = 32;
const FLAG_EXTENTS = 0x8_0000;
const FLAG_INDEX = 0x1000;

/** Longest target of a symbolic link that lies in the inode itself, in bytes. */
export const FAST_SYMLINK_BYTES_MAX = 59;

/** Before the extended attributes in an inode. */
const ATTRIBUTES_MAGIC = 0xea02_0000;

/** Header of the extents in an inode: its magic number, and how many have room there. */
const EXTENT_MAGIC = 0xf30a;
const EXTENTS_IN_INODE = 4;

const BLOCK_AREA = { offset: 40, length: 60 };

/**
 * An inode of ext4, as 256 bytes (kernel: Documentation/filesystems/ext4/inodes.rst). Checks
 * nothing: its user does.
 */
export class Inode {
  readonly bytes: Uint8Array;
  readonly #view: DataView;

  constructor(bytes: Uint8Array = new Uint8Array(INODE_BYTES)) {
    this.bytes = bytes;
    this.#view = viewOf(bytes);
  }

  /** A new inode without links, content and times. */
  static make(type: InodeType, permissions: number): Inode {
    const inode = new Inode();
    inode.mode = MODE[type] | permissions;
    inode.#view.setUint16(128, EXTRA_BYTES, true);
    if (type === 'file' || type === 'directory' || type === 'symlink') {
      inode.#view.setUint32(32, FLAG_EXTENTS, true);
      inode.#view.setUint16(BLOCK_AREA.offset, EXTENT_MAGIC, true);
      inode.#view.setUint16(BLOCK_AREA.offset + 4, EXTENTS_IN_INODE, true);
    }
    return inode;
  }

  get mode(): number {
    return this.#view.getUint16(0, true);
  }

  set mode(mode: number) {
    this.#view.setUint16(0, mode, true);
  }

  /** The 12 bits of permissions in the mode. */
  set permissions(bits: number) {
    this.mode = (this.mode & S_IFMT) | (bits & ~S_IFMT);
  }

  get type(): InodeType | undefined {
    const bits = this.mode & S_IFMT;
    return (Object.keys(MODE) as InodeType[]).find((type) => MODE[type] === bits);
  }

  get uid(): number {
    return this.#view.getUint16(2, true) + this.#view.getUint16(120, true) * 0x1_0000;
  }

  set uid(uid: number) {
    this.#view.setUint16(2, uid & 0xffff, true);
    this.#view.setUint16(120, uid >>> 16, true);
  }

  get gid(): number {
    return this.#view.getUint16(24, true) + this.#view.getUint16(122, true) * 0x1_0000;
  }

  set gid(gid: number) {
    this.#view.setUint16(24, gid & 0xffff, true);
    this.#view.setUint16(122, gid >>> 16, true);
  }

  get linkCount(): number {
    return this.#view.getUint16(26, true);
  }

  set linkCount(count: number) {
    this.#view.setUint16(26, count, true);
  }

  get sizeBytes(): number {
    return this.#view.getUint32(4, true) + this.#view.getUint32(108, true) * 2 ** 32;
  }

  set sizeBytes(size: number) {
    this.#view.setUint32(4, size % 2 ** 32, true);
    this.#view.setUint32(108, Math.floor(size / 2 ** 32), true);
  }

  /** Whether its blocks are named by extents: devices, fifos and short symbolic links have none. */
  get hasExtents(): boolean {
    return (this.#view.getUint32(32, true) & FLAG_EXTENTS) !== 0;
  }

  get isIndexed(): boolean {
    return (this.#view.getUint32(32, true) & FLAG_INDEX) !== 0;
  }

  setIndexed(): void {
    this.#view.setUint32(32, this.#view.getUint32(32, true) | FLAG_INDEX, true);
  }

  get mtime(): TarTime {
    return this.#time(16, 136);
  }

  setTimes(times: { mtime: TarTime; atime: TarTime; ctime: TarTime }): void {
    this.#setTime(8, 140, times.atime);
    this.#setTime(12, 132, times.ctime);
    this.#setTime(16, 136, times.mtime);
    this.#setTime(144, 148, times.mtime);
  }

  /** The target of a short symbolic link, which lies where others have their extents. */
  setFastTarget(target: Uint8Array): void {
    this.bytes.fill(0, BLOCK_AREA.offset, BLOCK_AREA.offset + BLOCK_AREA.length);
    this.bytes.set(target, BLOCK_AREA.offset);
    this.#view.setUint32(32, this.#view.getUint32(32, true) & ~FLAG_EXTENTS, true);
    this.sizeBytes = target.length;
  }

  /** The target of a short symbolic link; undefined when it lies in a block. */
  get fastTarget(): Uint8Array | undefined {
    if (this.hasExtents) return undefined;
    return this.bytes.subarray(BLOCK_AREA.offset, BLOCK_AREA.offset + this.sizeBytes);
  }

  /** Whether it has extended attributes, in itself or in a block. */
  get hasAttributes(): boolean {
    const inInode = this.#view.getUint32(128 + EXTRA_BYTES, true) === ATTRIBUTES_MAGIC;
    return inInode || this.#view.getUint32(104, true) !== 0;
  }

  /** The numbers of a device, in the newer of the kernel's two forms. */
  setDevice(major: number, minor: number): void {
    const encoded = (minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12);
    this.#view.setUint32(BLOCK_AREA.offset + 4, encoded >>> 0, true);
  }

  /** Marks the inode as deleted at a fixed time. */
  setDeleted(seconds: number): void {
    this.#view.setUint32(20, seconds, true);
  }

  #time(offset: number, extraOffset: number): TarTime {
    const extra = this.#view.getUint32(extraOffset, true);
    const seconds = this.#view.getInt32(offset, true) + (extra & 3) * 2 ** 32;
    return { seconds, nanoseconds: extra >>> 2 };
  }

  #setTime(offset: number, extraOffset: number, time: TarTime): void {
    const seconds = Math.min(Math.max(time.seconds, TIME_SECONDS_MIN), TIME_SECONDS_MAX);
    const nanoseconds = seconds === time.seconds ? time.nanoseconds : 0;
    const epoch = Math.floor((seconds + 2 ** 31) / 2 ** 32);
    this.#view.setUint32(offset, seconds >>> 0, true);
    this.#view.setUint32(extraOffset, ((nanoseconds << 2) | epoch) >>> 0, true);
  }
}
