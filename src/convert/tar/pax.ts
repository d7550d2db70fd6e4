import { byteString } from './tar-header.ts';
import type { ByteString, TarTime } from './tar-entry.ts';
import {
  GLOBAL_BYTES_MAX,
  NAME_BYTES_MAX,
  XATTR_NAME_BYTES_MAX,
  XATTR_VALUE_BYTES_MAX,
} from './tar-entry.ts';
import type { TarPlace } from './tar-place.ts';

const SCHILY_XATTR = 'SCHILY.xattr.';
const LIBARCHIVE_XATTR = 'LIBARCHIVE.xattr.';

/** What a global record counts for beside its name and value: each costs time at every entry. */
const GLOBAL_RECORD_BYTES = 256;

/** The records that a reader goes by, apart from extended attributes. All others are dropped. */
const KNOWN: ReadonlySet<ByteString> = new Set([
  ...['path', 'linkpath', 'size', 'uid', 'gid', 'mtime', 'atime', 'ctime'],
  ...['SCHILY.devmajor', 'SCHILY.devminor', 'SUN.holesdata'],
  ...['GNU.sparse.major', 'GNU.sparse.minor', 'GNU.sparse.name', 'GNU.sparse.realsize'],
  ...['GNU.sparse.size', 'GNU.sparse.numblocks', 'GNU.sparse.map'],
]);

const NO_XATTRS: ReadonlyMap<ByteString, Uint8Array> = new Map();

/** Records of one extended header. */
export class PaxRecords {
  readonly values = new Map<ByteString, ByteString>();
  #xattrs: Map<ByteString, Uint8Array> | undefined;
  /** GNU.sparse.offset and GNU.sparse.numbytes, which stand once for each range, in turn. */
  readonly sparsePairs: ByteString[] = [];

  /** Extended attributes by name. */
  get xattrs(): ReadonlyMap<ByteString, Uint8Array> {
    return this.#xattrs ?? NO_XATTRS;
  }

  setXattr(name: ByteString, value: Uint8Array): void {
    this.#xattrs ??= new Map();
    this.#xattrs.set(name, value);
  }

  /** The value of a record that is there and not empty. */
  get(key: ByteString): ByteString | undefined {
    const value = this.values.get(key);
    return value === '' ? undefined : value;
  }

  /**
   * Takes over the records of a global header. An empty value ends that of an earlier one. The map
   * of a sparse file belongs to one file. Throws ConvertError.
   */
  merge(others: PaxRecords, place: TarPlace): void {
    for (const [key, value] of others.values) {
      if (value === '') this.values.delete(key);
      else if (!key.startsWith('GNU.sparse.')) this.values.set(key, value);
    }
    for (const [name, value] of others.xattrs) this.setXattr(name, value);
    let bytes = (this.values.size + this.xattrs.size) * GLOBAL_RECORD_BYTES;
    for (const [key, value] of this.values) bytes += key.length + value.length;
    for (const [name, value] of this.xattrs) bytes += name.length + value.length;
    if (bytes <= GLOBAL_BYTES_MAX) return;
    throw place.error(`its global records have more than ${GLOBAL_BYTES_MAX} bytes`);
  }
}

/**
 * Reads records of the form "LENGTH KEY=VALUE\n", where the decimal length counts the whole record.
 * Values may have any bytes. Throws ConvertError.
 */
export function parsePax(body: Uint8Array, place: TarPlace): PaxRecords {
  const records = new PaxRecords();
  for (let at = 0; at < body.length; ) {
    const { keyAt, end } = recordAt(body, at, place);
    const equals = body.indexOf(0x3d, keyAt);
    if (equals <= keyAt || equals >= end) throw place.error('a PAX record has no key');
    const key = byteString(body, keyAt, equals);
    addRecord(records, key, { body, start: equals + 1, end: end - 1 }, place);
    at = end;
  }
  return records;
}

/** Where the record at `at` has its key, and where it ends. */
function recordAt(
  body: Uint8Array,
  at: number,
  place: TarPlace,
): { readonly keyAt: number; readonly end: number } {
  let length = 0;
  let next = at;
  for (; next < body.length && next < at + 10; next++) {
    const digit = (body[next] ?? 0) - 0x30;
    if (digit < 0 || digit > 9) break;
    length = length * 10 + digit;
  }
  const end = at + length;
  if (next === at || body[next] !== 0x20 || end <= next + 1 || end > body.length) {
    throw place.error(`the length of the PAX record at byte ${at} of its header is wrong`);
  }
  if (body[end - 1] !== 0x0a) {
    throw place.error(`the PAX record at byte ${at} of its header does not end with a new line`);
  }
  return { keyAt: next + 1, end };
}

function addRecord(
  records: PaxRecords,
  key: ByteString,
  value: { readonly body: Uint8Array; readonly start: number; readonly end: number },
  place: TarPlace,
): void {
  const { body, start, end } = value;
  if (key.startsWith(SCHILY_XATTR)) {
    // GNU tar writes "=" as %3D and "%" as %25; Go writes neither name with "=" nor escapes.
    const name = key.slice(SCHILY_XATTR.length).replaceAll(/%(?:25|3D)/gi, unescaped);
    // A copy: entries may be kept, chunks may not. The slice() of a Buffer would be none.
    addXattr(records, name, new Uint8Array(body.subarray(start, end)), place);
  } else if (key.startsWith(LIBARCHIVE_XATTR)) {
    const name = key.slice(LIBARCHIVE_XATTR.length).replaceAll(/%[0-9a-f]{2}/gi, unescaped);
    addXattr(records, name, fromBase64(byteString(body, start, end), place), place);
  } else if (key === 'GNU.sparse.offset' || key === 'GNU.sparse.numbytes') {
    const isOffset = records.sparsePairs.length % 2 === 0;
    if (isOffset !== (key === 'GNU.sparse.offset')) {
      throw place.error('its sparse map has offsets and lengths that do not take turns');
    }
    records.sparsePairs.push(byteString(body, start, end));
  } else if (KNOWN.has(key)) {
    records.values.set(key, byteString(body, start, end));
  }
}

const unescaped = (escape: string): string =>
  String.fromCharCode(Number.parseInt(escape.slice(1), 16));

function addXattr(records: PaxRecords, name: ByteString, value: Uint8Array, place: TarPlace): void {
  if (name === '' || name.length > XATTR_NAME_BYTES_MAX || name.includes('\0')) {
    throw place.error(
      `an extended attribute has a name that is empty, too long or with a NUL: ` +
        `at most ${XATTR_NAME_BYTES_MAX} bytes`,
    );
  }
  if (value.length > XATTR_VALUE_BYTES_MAX) {
    throw place.error(
      `an extended attribute has ${value.length} bytes, more than ${XATTR_VALUE_BYTES_MAX}`,
    );
  }
  records.setXattr(name, value);
}

function fromBase64(text: ByteString, place: TarPlace): Uint8Array {
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(text)) {
    throw place.error('an extended attribute is no base64');
  }
  return new Uint8Array(Buffer.from(text, 'base64'));
}

/** A path or a link's target, if it may be one. Throws ConvertError. */
export function checkedName(name: ByteString, what: string, place: TarPlace): ByteString {
  if (name.length > NAME_BYTES_MAX) {
    throw place.error(`its ${what} has ${name.length} bytes, more than ${NAME_BYTES_MAX}`);
  }
  if (name.includes('\0')) throw place.error(`its ${what} has a NUL byte`);
  return name;
}

/** A decimal number from 0 to `max`. Throws ConvertError. */
export function paxNumber(
  text: ByteString,
  what: string,
  place: TarPlace,
  max = Number.MAX_SAFE_INTEGER,
): number {
  const value = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
  if (value <= max) return value;
  throw place.error(`its ${what} ${JSON.stringify(text.slice(0, 40))} is not between 0 and ${max}`);
}

/** Seconds since 1970, perhaps with a fraction, perhaps negative. Throws ConvertError. */
export function paxTime(text: ByteString, what: string, place: TarPlace): TarTime {
  const [, sign, whole = '', fraction = ''] = /^(-?)(\d+)(?:\.(\d*))?$/.exec(text) ?? [];
  const seconds = Number(whole);
  if (whole === '' || !Number.isSafeInteger(seconds + 1)) {
    throw place.error(`its ${what} ${JSON.stringify(text.slice(0, 40))} is no time`);
  }
  const nanoseconds = Number(fraction.slice(0, 9).padEnd(9, '0'));
  if (sign !== '-') return { seconds, nanoseconds };
  if (nanoseconds === 0) return { seconds: seconds === 0 ? 0 : -seconds, nanoseconds };
  return { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds };
}
