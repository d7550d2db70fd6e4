import { viewOf } from '../../image/binary.ts';
import { damaged, outOfRange } from '../../image/errors.ts';
import type { TarEntryType, TarTime } from '../tar/tar-entry.ts';

/** What an inode is; `other` is none of what images have. */
export type InodeType = Exclude<TarEntryType, 'hardlink'> | 'socket';

const FORMATS: Readonly<Record<number, InodeType>> = {
  0x1000: 'fifo',
  0x2000: 'character-device',
  0x4000: 'directory',
  0x6000: 'block-device',
  0x8000: 'file',
  0xa000: 'symlink',
  0xc000: 'socket',
};

const FLAG_EXTENTS = 0x80000;
const FLAG_INLINE_DATA = 0x10000000;
const FLAG_ENCRYPTED = 0x800;

/** Bytes of an inode that all file systems have. */
const BASE_BYTES = 128;

/** The field of 60 bytes for the map of the blocks, or for a little data. */
const BLOCK_FIELD = { at: 0x28, length: 60 };

/** An inode, read. */
export interface Inode {
  readonly number: number;
  readonly type: InodeType;
  /** The 12 permission bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly sizeBytes: number;
  readonly mtime: TarTime;
  readonly linkCount: number;
  readonly deviceMajor: number;
  readonly deviceMinor: number;
  readonly hasExtents: boolean;
  readonly hasInlineData: boolean;
  /** The map of the blocks, or a little data: 60 bytes. */
  readonly blockField: Uint8Array;
  /** Block of extended attributes; 0 for none. */
  readonly attributeBlock: number;
  /** Extended attributes in the inode, from their magic number on; may be empty. */
  readonly attributeBytes: Uint8Array;
}

/** Reads an inode. Throws ImageError. */
export function parseInode(number: number, bytes: Uint8Array): Inode {
  const part = `ext4 inode ${number}`;
  const view = viewOf(bytes);
  const u16 = (at: number): number => view.getUint16(at, true);
  const u32 = (at: number): number => view.getUint32(at, true);
  const format = u16(0) & 0xf000;
  const type = FORMATS[format];
  if (type === undefined) throw damaged(part, `its mode 0${u16(0).toString(8)} names no type`);
  const linkCount = u16(0x1a);
  if (linkCount === 0) throw damaged(part, 'a directory names it, but it is not in use');
  const flags = u32(0x20);
  if ((flags & FLAG_ENCRYPTED) !== 0) throw damaged(part, 'it is encrypted');
  const sizeBytes = u32(0x4) + u32(0x6c) * 2 ** 32;
  if (!Number.isSafeInteger(sizeBytes)) throw outOfRange(part, sizeBytes, 'sizes are below 2^53');
  const extraBytes = bytes.length > BASE_BYTES ? u16(0x80) : 0;
  if (extraBytes % 4 !== 0 || BASE_BYTES + extraBytes > bytes.length) {
    throw outOfRange(`${part} extra_isize`, extraBytes, `it has ${bytes.length} bytes`);
  }
  const blockField = bytes.slice(BLOCK_FIELD.at, BLOCK_FIELD.at + BLOCK_FIELD.length);
  const isDevice = type === 'character-device' || type === 'block-device';
  return {
    ...{ number, type, sizeBytes, linkCount, blockField },
    mode: u16(0) & 0o7777,
    uid: u16(0x2) + u16(0x78) * 65536,
    gid: u16(0x18) + u16(0x7a) * 65536,
    // The extra times are ctime at 0x84, mtime at 0x88.
    mtime: timeOf(view.getInt32(0x10, true), extraBytes >= 0xc ? u32(0x88) : 0),
    ...(isDevice ? deviceOf(viewOf(blockField)) : { deviceMajor: 0, deviceMinor: 0 }),
    hasExtents: (flags & FLAG_EXTENTS) !== 0,
    hasInlineData: (flags & FLAG_INLINE_DATA) !== 0,
    attributeBlock: u32(0x68) + u16(0x76) * 2 ** 32,
    attributeBytes: bytes.slice(BASE_BYTES + extraBytes),
  };
}

/** Two more bits of the seconds stand below the nanoseconds. */
function timeOf(seconds: number, extra: number): TarTime {
  return { seconds: seconds + (extra & 3) * 2 ** 32, nanoseconds: extra >>> 2 };
}

/** Numbers of 8 bits each stand in the first word, as they once were; larger ones in the second. */
function deviceOf(view: DataView): { readonly deviceMajor: number; readonly deviceMinor: number } {
  const old = view.getUint32(0, true);
  if (old !== 0) return { deviceMajor: (old >>> 8) & 0xff, deviceMinor: old & 0xff };
  const device = view.getUint32(4, true);
  return {
    deviceMajor: (device >>> 8) & 0xfff,
    deviceMinor: (device & 0xff) | ((device >>> 12) & 0xfff00),
  };
}
