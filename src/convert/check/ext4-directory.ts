import { viewOf } from '../../image/binary.ts';
import { damaged } from '../../image/errors.ts';
import type { ByteString } from '../tar/tar-entry.ts';
import { byteString } from '../tar/tar-header.ts';

/** Shortest entry: number, length of the entry, length of the name, type. */
const ENTRY_BYTES_MIN = 8;

const SLASH = 0x2f;

/** A name in a directory. */
export interface DirectoryEntry {
  readonly name: ByteString;
  readonly inode: number;
}

/**
 * The entries in one block of a directory, `.` and `..` left out. The nodes of a hash tree look
 * like blocks without entries. Throws ImageError.
 */
export function* entriesIn(block: Uint8Array, part: string): Generator<DirectoryEntry, void> {
  const view = viewOf(block);
  for (let at = 0; at < block.length; ) {
    if (at + ENTRY_BYTES_MIN > block.length) throw damaged(part, 'an entry is cut short');
    const inode = view.getUint32(at, true);
    const length = recordBytes(view.getUint16(at + 4, true));
    const nameLength = block[at + 6] ?? 0;
    const isSound = length >= ENTRY_BYTES_MIN && length % 4 === 0 && at + length <= block.length;
    if (!isSound) throw damaged(part, `an entry has the length ${length}`);
    if (inode !== 0) {
      if (ENTRY_BYTES_MIN + nameLength > length) throw damaged(part, 'a name is cut short');
      const start = at + ENTRY_BYTES_MIN;
      const name = block.subarray(start, start + nameLength);
      if (nameLength === 0 || name.includes(0) || name.includes(SLASH)) {
        throw damaged(part, 'an entry has no valid name');
      }
      const isSelf =
        name[0] === 0x2e && (nameLength === 1 || (nameLength === 2 && name[1] === 0x2e));
      if (!isSelf) yield { name: byteString(block, start, start + nameLength), inode };
    }
    at += length;
  }
}

/** In blocks of 64 KiB, a length of 65,536 is written as 0 or 65,535. */
function recordBytes(length: number): number {
  return length === 65_535 || length === 0 ? 65_536 : length;
}
