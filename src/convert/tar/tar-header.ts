import type { ByteString, TarTime } from './tar-entry.ts';
import type { TarPlace } from './tar-place.ts';

/** Archives are made of blocks: a header, then data, padded to whole blocks. */
export const BLOCK_BYTES = 512;

/** Largest uid, gid and device number: they are 32 bits. */
const ID_MAX = 2 ** 32 - 1;

/**
 * One header block. Offsets in bytes:
 *
 *     0 name 100, 100 mode 8, 108 uid 8, 116 gid 8, 124 size 12, 136 mtime 12, 148 checksum 8,
 *     156 type 1, 157 link target 100, 257 magic 6, 263 version 2, 329 major 8, 337 minor 8
 *     ustar: 345 prefix 155.  star: 345 prefix 131, 476 atime 12, 488 ctime 12, 508 "tar\0"
 *     GNU: 345 atime 12, 357 ctime 12, 386 four sparse ranges 24 each, 482 more 1, 483 real size 12
 *
 * `size` is that of the data in the archive.
 */
export interface TarHeader {
  readonly typeFlag: string;
  readonly path: ByteString;
  readonly linkTarget: ByteString;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly mtime: TarTime;
  readonly atime: TarTime | undefined;
  readonly ctime: TarTime | undefined;
  readonly deviceMajor: number;
  readonly deviceMinor: number;
}

type Dialect = 'v7' | 'ustar' | 'star' | 'gnu';

/** What a field of a header is called, where it is, and what its number may be. */
interface NumberField {
  readonly name: string;
  readonly at: number;
  readonly length: number;
  readonly min?: number;
  readonly max?: number;
}

const MODE = { name: 'mode', at: 100, length: 8 };
const UID = { name: 'uid', at: 108, length: 8, max: ID_MAX };
const GID = { name: 'gid', at: 116, length: 8, max: ID_MAX };
const SIZE = { name: 'size', at: 124, length: 12 };
const MTIME = { name: 'mtime', at: 136, length: 12, min: Number.MIN_SAFE_INTEGER };
const CHECKSUM = { name: 'checksum', at: 148, length: 8 };
const DEVICE_MAJOR = { name: 'major device number', at: 329, length: 8, max: ID_MAX };
const DEVICE_MINOR = { name: 'minor device number', at: 337, length: 8, max: ID_MAX };
const GNU_ATIME = { name: 'atime', at: 345, length: 12, min: Number.MIN_SAFE_INTEGER };
const GNU_CTIME = { name: 'ctime', at: 357, length: 12, min: Number.MIN_SAFE_INTEGER };
const STAR_ATIME = { name: 'atime', at: 476, length: 12, min: Number.MIN_SAFE_INTEGER };
const STAR_CTIME = { name: 'ctime', at: 488, length: 12, min: Number.MIN_SAFE_INTEGER };

/** Whether a block has no byte but zeros: a part of the end of an archive. */
export function isZeroBlock(block: Uint8Array): boolean {
  for (let i = 0; i < block.length; i++) if (block[i] !== 0) return false;
  return true;
}

/** Checks and reads a header block. Throws ConvertError. */
export function parseHeader(block: Uint8Array, place: TarPlace): TarHeader {
  checkSum(block, place);
  const typeFlag = String.fromCharCode(block[156] ?? 0);
  const dialect = dialectOf(block);
  const isOldGo = dialect === 'gnu' && !hasGnuTimes(block, place);
  const prefix = prefixOf(block, dialect, isOldGo);
  const name = fieldText(block, 0, 100);
  const path = prefix === '' ? name : `${prefix}/${name}`;
  place.path = path;
  const times = isOldGo ? {} : timesOf(block, dialect, place);
  const hasDevice = dialect !== 'v7' && (typeFlag === '3' || typeFlag === '4');
  return {
    typeFlag,
    path,
    linkTarget: fieldText(block, 157, 100),
    mode: parseNumber(block, MODE, place) & 0o7777,
    uid: parseNumber(block, UID, place),
    gid: parseNumber(block, GID, place),
    size: parseNumber(block, SIZE, place),
    mtime: { seconds: parseNumber(block, MTIME, place), nanoseconds: 0 },
    atime: times.atime,
    ctime: times.ctime,
    deviceMajor: hasDevice ? parseNumber(block, DEVICE_MAJOR, place) : 0,
    deviceMinor: hasDevice ? parseNumber(block, DEVICE_MINOR, place) : 0,
  };
}

/** Bytes as a string of one character each. */
export function byteString(bytes: Uint8Array, start = 0, end = bytes.length): ByteString {
  return Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString('latin1');
}

/** The bytes up to the first NUL. */
function fieldText(block: Uint8Array, at: number, length: number): ByteString {
  let end = at;
  while (end < at + length && block[end] !== 0) end++;
  return end === at ? '' : byteString(block, at, end);
}

/**
 * A number: octal digits among spaces and NULs, or, when the first bit is set, the rest as a two's
 * complement, the first byte the highest. Throws ConvertError.
 */
export function parseNumber(block: Uint8Array, field: NumberField, place: TarPlace): number {
  const { name, at, length, min = 0, max = Number.MAX_SAFE_INTEGER } = field;
  const value =
    ((block[at] ?? 0) & 0x80) === 0
      ? octalNumber(block, at, at + length)
      : binaryNumber(block, at, at + length);
  if (value === undefined) {
    const text = JSON.stringify(byteString(block, at, at + length));
    throw place.error(`its ${name} ${text} is no number`);
  }
  if (value < min || value > max) {
    throw place.error(`its ${name} ${value} is not between ${min} and ${max}`);
  }
  return value;
}

function octalNumber(block: Uint8Array, start: number, end: number): number | undefined {
  let at = start;
  while (at < end && (block[at] === 0x20 || block[at] === 0)) at++;
  let value = 0;
  for (; at < end; at++) {
    const byte = block[at] ?? 0;
    if (byte === 0x20 || byte === 0) return value;
    if (byte < 0x30 || byte > 0x37) return undefined;
    value = value * 8 + (byte - 0x30);
  }
  return value;
}

/** Beyond 2^53 the value is inexact, but still beyond every limit. */
function binaryNumber(block: Uint8Array, start: number, end: number): number {
  const first = block[start] ?? 0;
  const flip = (first & 0x40) === 0 ? 0 : 0xff;
  let value = (first ^ flip) & 0x7f;
  for (let at = start + 1; at < end; at++) value = value * 256 + ((block[at] ?? 0) ^ flip);
  return flip === 0 ? value : -1 - value;
}

/** The sum of all bytes, those of the sum itself as spaces. Some old writers took signed bytes. */
function checkSum(block: Uint8Array, place: TarPlace): void {
  const { at, length } = CHECKSUM;
  const expected = octalNumber(block, at, at + length);
  let sum = 0;
  for (let i = 0; i < BLOCK_BYTES; i++) sum += block[i] ?? 0;
  for (let i = at; i < at + length; i++) sum += 0x20 - (block[i] ?? 0);
  if (sum === expected) return;
  const isHigh = (byte: number, i: number): boolean => byte > 127 && (i < at || i >= at + length);
  if (sum - 256 * block.filter(isHigh).length === expected) return;
  throw place.error('the checksum of a header is wrong: it is damaged, or this is no tar archive');
}

function dialectOf(block: Uint8Array): Dialect {
  if (hasText(block, 257, 'ustar  \0')) return 'gnu';
  if (!hasText(block, 257, 'ustar\0')) return 'v7';
  return hasText(block, 508, 'tar\0') ? 'star' : 'ustar';
}

function hasText(block: Uint8Array, at: number, text: string): boolean {
  for (let i = 0; i < text.length; i++) if (block[at + i] !== text.charCodeAt(i)) return false;
  return true;
}

function prefixOf(block: Uint8Array, dialect: Dialect, isOldGo: boolean): ByteString {
  if (dialect === 'ustar') return fieldText(block, 345, 155);
  if (dialect === 'star') return fieldText(block, 345, 131);
  if (!isOldGo) return '';
  const prefix = fieldText(block, 345, 155);
  return /^[\x01-\x7f]*$/.test(prefix) ? prefix : '';
}

/** Go before 1.8 wrote the prefix of ustar into headers of GNU, which have times there. */
function hasGnuTimes(block: Uint8Array, place: TarPlace): boolean {
  if (block[GNU_ATIME.at] === 0 && block[GNU_CTIME.at] === 0) return true;
  try {
    timesOf(block, 'gnu', place);
    return true;
  } catch {
    return false;
  }
}

function timesOf(
  block: Uint8Array,
  dialect: Dialect,
  place: TarPlace,
): { readonly atime?: TarTime | undefined; readonly ctime?: TarTime | undefined } {
  const at = (field: NumberField): TarTime | undefined =>
    block[field.at] === 0
      ? undefined
      : { seconds: parseNumber(block, field, place), nanoseconds: 0 };
  if (dialect === 'gnu') return { atime: at(GNU_ATIME), ctime: at(GNU_CTIME) };
  if (dialect === 'star') return { atime: at(STAR_ATIME), ctime: at(STAR_CTIME) };
  return {};
}
