import { assert } from '../../util/assert.ts';
import { BLOCK_BYTES } from './tar-header.ts';
import type { ByteString, TarEntry, TarEntryType, TarTime } from './tar-entry.ts';

const TYPE_FLAGS: Readonly<Record<TarEntryType, string>> = {
  file: '0',
  hardlink: '1',
  symlink: '2',
  'character-device': '3',
  'block-device': '4',
  directory: '5',
  fifo: '6',
};

/** Bytes of the fields for a name and for the target of a link. */
const NAME_BYTES = 100;

/** Largest numbers in the octal digits of the fields. */
const ID_MAX = 8 ** 7 - 1;
const LONG_MAX = 8 ** 11 - 1;

const ATTRIBUTE_PREFIX = 'SCHILY.xattr.';

/** What a header says of an entry: `sizeBytes` bytes of content follow. */
export type WrittenEntry = Omit<TarEntry, 'dataRuns' | 'atime' | 'ctime'>;

/**
 * The header of an entry: ustar, after a PAX header for what has no room in it. The same entry
 * gives the same bytes.
 */
export function tarHeader(entry: WrittenEntry): Uint8Array {
  const records = paxRecords(entry);
  if (records === '') return ustar(entry, TYPE_FLAGS[entry.type]);
  const body = Buffer.from(records, 'latin1');
  const pax = ustar({ ...PAX_ENTRY, sizeBytes: body.length }, 'x');
  return Buffer.concat([pax, body, tarPadding(body.length), ustar(entry, TYPE_FLAGS[entry.type])]);
}

/** The zeros behind content of this size. */
export function tarPadding(sizeBytes: number): Uint8Array {
  return new Uint8Array((BLOCK_BYTES - (sizeBytes % BLOCK_BYTES)) % BLOCK_BYTES);
}

/** The end of an archive. */
export function tarEnd(): Uint8Array {
  return new Uint8Array(2 * BLOCK_BYTES);
}

const PAX_ENTRY: WrittenEntry = {
  type: 'file',
  path: 'pax',
  linkTarget: '',
  mode: 0o644,
  uid: 0,
  gid: 0,
  mtime: { seconds: 0, nanoseconds: 0 },
  deviceMajor: 0,
  deviceMinor: 0,
  xattrs: new Map(),
  sizeBytes: 0,
};

function paxRecords(entry: WrittenEntry): ByteString {
  const { path, linkTarget, sizeBytes, uid, gid, mtime, xattrs } = entry;
  const found: [string, ByteString][] = [];
  if (path.length > NAME_BYTES) found.push(['path', path]);
  if (linkTarget.length > NAME_BYTES) found.push(['linkpath', linkTarget]);
  if (sizeBytes > LONG_MAX) found.push(['size', String(sizeBytes)]);
  if (uid > ID_MAX) found.push(['uid', String(uid)]);
  if (gid > ID_MAX) found.push(['gid', String(gid)]);
  if (!fits(mtime)) found.push(['mtime', decimal(mtime)]);
  for (const [name, value] of [...xattrs].sort(([a], [b]) => (a < b ? -1 : 1))) {
    found.push([ATTRIBUTE_PREFIX + name, Buffer.from(value).toString('latin1')]);
  }
  return found.map(([key, value]) => paxRecord(key, value)).join('');
}

/** `<length of all of it> <key>=<value>\n` */
function paxRecord(key: string, value: ByteString): ByteString {
  const body = ` ${key}=${value}\n`;
  let length = body.length + 1;
  while (String(length).length + body.length !== length) length++;
  return length + body;
}

function fits({ seconds, nanoseconds }: TarTime): boolean {
  return nanoseconds === 0 && seconds >= 0 && seconds <= LONG_MAX;
}

/** A time before 1970 counts down, and its fraction with it. */
function decimal({ seconds, nanoseconds }: TarTime): string {
  if (nanoseconds === 0) return String(seconds);
  const isBefore = seconds < 0;
  const whole = isBefore ? -(seconds + 1) : seconds;
  const rest = isBefore ? 1e9 - nanoseconds : nanoseconds;
  const digits = String(rest).padStart(9, '0').replace(/0+$/, '');
  return `${isBefore ? '-' : ''}${whole}.${digits}`;
}

function ustar(entry: WrittenEntry, typeFlag: string): Uint8Array {
  const { path, linkTarget, mode, uid, gid, mtime, sizeBytes } = entry;
  const block = Buffer.alloc(BLOCK_BYTES);
  const put = (at: number, text: ByteString): void => void block.write(text, at, 'latin1');
  const octal = (at: number, digits: number, value: number): void =>
    put(at, value.toString(8).padStart(digits, '0'));
  put(0, path.slice(0, NAME_BYTES));
  octal(100, 7, mode);
  octal(108, 7, Math.min(uid, ID_MAX));
  octal(116, 7, Math.min(gid, ID_MAX));
  octal(124, 11, sizeBytes > LONG_MAX ? 0 : sizeBytes);
  octal(136, 11, Math.min(Math.max(mtime.seconds, 0), LONG_MAX));
  put(156, typeFlag);
  put(157, linkTarget.slice(0, NAME_BYTES));
  put(257, 'ustar\x0000');
  octal(329, 7, entry.deviceMajor);
  octal(337, 7, entry.deviceMinor);
  const sum = block.reduce((total, byte) => total + byte, 8 * 0x20);
  put(148, `${sum.toString(8).padStart(6, '0')}\0 `);
  assert(block.length === BLOCK_BYTES, 'a header is one block');
  return block;
}
