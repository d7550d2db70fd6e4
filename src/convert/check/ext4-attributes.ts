import { viewOf } from '../../image/binary.ts';
import { damaged, outOfRange } from '../../image/errors.ts';
import type { ByteString } from '../tar/tar-entry.ts';
import { byteString } from '../tar/tar-header.ts';

const MAGIC = 0xea020000;
const BLOCK_HEADER_BYTES = 32;
const ENTRY_BYTES = 16;

/** XATTR_SIZE_MAX of Linux. */
const ATTRIBUTE_BYTES_MAX = 65_536;

/** What the numbers in front of names stand for. */
const PREFIXES: Readonly<Record<number, ByteString>> = {
  0: '',
  1: 'user.',
  2: 'system.posix_acl_access',
  3: 'system.posix_acl_default',
  4: 'trusted.',
  6: 'security.',
  7: 'system.',
  8: 'system.richacl',
};

const ACL_NAMES: ReadonlySet<ByteString> = new Set([PREFIXES[2] ?? '', PREFIXES[3] ?? '']);

/** The data of small files and directories: no attribute that a program sees. */
export const INLINE_DATA_NAME = 'system.data';

/** An attribute; its value lies here, or is the content of another inode. */
export interface Attribute {
  readonly name: ByteString;
  readonly value: Uint8Array | undefined;
  readonly valueInode: number;
  readonly valueBytes: number;
}

/** The attributes in an inode, whose space starts with the magic number when there are any. */
export function attributesInInode(bytes: Uint8Array, part: string): readonly Attribute[] {
  if (bytes.length < 8 || viewOf(bytes).getUint32(0, true) !== MAGIC) return [];
  return attributesIn(bytes.subarray(4), 0, part);
}

/** The attributes in a block of their own. Throws ImageError. */
export function attributesInBlock(bytes: Uint8Array, part: string): readonly Attribute[] {
  const view = viewOf(bytes);
  if (view.getUint32(0, true) !== MAGIC || view.getUint32(8, true) !== 1) {
    throw damaged(part, 'its block of attributes has no magic number');
  }
  return attributesIn(bytes, BLOCK_HEADER_BYTES, part);
}

/** Entries from `start` on; values are found by their offset in `bytes`. */
function attributesIn(bytes: Uint8Array, start: number, part: string): readonly Attribute[] {
  const view = viewOf(bytes);
  const found: Attribute[] = [];
  for (let at = start; at + 4 <= bytes.length && view.getUint32(at, true) !== 0; ) {
    if (at + ENTRY_BYTES > bytes.length) throw damaged(part, 'an attribute is cut short');
    const nameLength = bytes[at] ?? 0;
    const prefix = PREFIXES[bytes[at + 1] ?? 0];
    const valueOffset = view.getUint16(at + 2, true);
    const valueInode = view.getUint32(at + 4, true);
    const valueBytes = view.getUint32(at + 8, true);
    const nameAt = at + ENTRY_BYTES;
    if (prefix === undefined) throw damaged(part, 'an attribute has an unknown kind of name');
    if (nameAt + nameLength > bytes.length) throw damaged(part, 'an attribute is cut short');
    if (valueBytes > ATTRIBUTE_BYTES_MAX) {
      const rule = `it is at most ${ATTRIBUTE_BYTES_MAX}`;
      throw outOfRange(`${part} size of an attribute`, valueBytes, rule);
    }
    if (valueInode === 0 && valueOffset + valueBytes > bytes.length) {
      throw damaged(part, 'the value of an attribute is cut short');
    }
    const value = valueInode === 0 ? bytes.slice(valueOffset, valueOffset + valueBytes) : undefined;
    const suffix = byteString(bytes, nameAt, nameAt + nameLength);
    found.push({ name: prefix + suffix, value, valueInode, valueBytes });
    at = nameAt + Math.ceil(nameLength / 4) * 4;
  }
  return found;
}

const ACL_VERSION_DISK = 1;
const ACL_VERSION_KERNEL = 2;
const ACL_USER = 0x2;
const ACL_GROUP = 0x8;
const ACL_NO_ID = 0xffffffff;

/** The value as programs see it: ACLs lie on disk in a shorter form. Throws ImageError. */
export function seenValue(name: ByteString, value: Uint8Array, part: string): Uint8Array {
  if (!ACL_NAMES.has(name)) return value;
  const view = viewOf(value);
  if (value.length < 4 || view.getUint32(0, true) !== ACL_VERSION_DISK) {
    throw damaged(part, 'an ACL has an unknown version');
  }
  const entries: (readonly [tag: number, permissions: number, id: number])[] = [];
  for (let at = 4; at < value.length; ) {
    const tag = at + 4 <= value.length ? view.getUint16(at, true) : 0;
    const hasId = tag === ACL_USER || tag === ACL_GROUP;
    const length = hasId ? 8 : 4;
    if (at + length > value.length) throw damaged(part, 'an ACL is cut short');
    const id = hasId ? view.getUint32(at + 4, true) : ACL_NO_ID;
    entries.push([tag, view.getUint16(at + 2, true), id]);
    at += length;
  }
  const seen = new Uint8Array(4 + 8 * entries.length);
  const out = viewOf(seen);
  out.setUint32(0, ACL_VERSION_KERNEL, true);
  for (const [i, [tag, permissions, id]] of entries.entries()) {
    out.setUint16(4 + 8 * i, tag, true);
    out.setUint16(6 + 8 * i, permissions, true);
    out.setUint32(8 + 8 * i, id, true);
  }
  return seen;
}
