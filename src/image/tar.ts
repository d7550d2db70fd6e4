import { assert } from '../util/assert.ts';
import { ceilTo } from './binary.ts';
import { type ByteSource, readPart } from './byte-source.ts';
import { damaged, ImageError, outOfRange } from './errors.ts';

/** Bytes of a tar record. */
const RECORD_BYTES = 512;

/** Longest list of PAX records that is read, in bytes; real ones are below 30. */
const PAX_SIZE_BYTES_MAX = 64 * 1024;

/** Name of the one file in the tar of a layer, as overlaybd writes it. */
const LAYER_NAME = 'overlaybd.commit';

/** Bytes of the tar wrapper in front of a layer. */
export const TAR_PREFIX_BYTES = 3 * RECORD_BYTES;

/** Where a layer lies in its blob, in bytes. */
export interface Payload {
  readonly offset: number;
  readonly sizeBytes: number;
}

/** Largest size in the eleven octal digits of a header. */
const OCTAL_SIZE_BYTES_MAX = 8 ** 11 - 1;

/** A checked header of a tar file. */
interface TarHeader {
  readonly name: string;
  readonly type: string;
  readonly sizeBytes: number;
}

/** Whether the record is a ustar header. */
export function isTar(record: Uint8Array): boolean {
  return record.length >= RECORD_BYTES && ascii(record, 257, 5) === 'ustar';
}

/**
 * Finds the first file of a tar, which is the layer. Reads both forms that overlaybd writes: a PAX
 * header, whose `size` counts, or a plain header. *     PAX:   | header x | records | header 0,
 * size 0 | payload ...
 *     plain: | header 0 | payload ...
 *
 * Throws ImageError when a checksum or a size is wrong.
 */
export async function findTarPayload(source: ByteSource): Promise<Payload> {
  let offset = 0;
  let paxSize: number | undefined;
  let header = await readHeader(source, offset);
  if (header.type === 'x') {
    if (header.sizeBytes > PAX_SIZE_BYTES_MAX) {
      throw outOfRange(
        'tar PAX header size',
        header.sizeBytes,
        `at most ${PAX_SIZE_BYTES_MAX} bytes are read`,
      );
    }
    const records = await readPart(
      source,
      offset + RECORD_BYTES,
      header.sizeBytes,
      'tar PAX header',
    );
    paxSize = sizeRecord(records);
    offset += RECORD_BYTES + ceilTo(header.sizeBytes, RECORD_BYTES);
    header = await readHeader(source, offset);
  }
  if (header.type !== '0' && header.type !== '\0') {
    throw new ImageError(
      `blob is not a block layer: it is a tar whose first entry ${JSON.stringify(header.name)} ` +
        'is not a regular file; convert an ordinary OCI layer first',
      { code: 'not-a-layer' },
    );
  }
  const payload = { offset: offset + RECORD_BYTES, sizeBytes: paxSize ?? header.sizeBytes };
  if (payload.offset + payload.sizeBytes > source.sizeBytes) {
    throw outOfRange(
      'tar size of the layer',
      payload.sizeBytes,
      `the blob has ${source.sizeBytes - payload.offset} bytes after the tar header`,
    );
  }
  return payload;
}

/** The bytes in front of a layer of `sizeBytes` in its tar, in PAX form. */
export function tarPrefix(sizeBytes: number): Uint8Array {
  const record = paxRecord('size', String(sizeBytes));
  const bytes = new Uint8Array(TAR_PREFIX_BYTES);
  bytes.set(paxHeader(record.length), 0);
  bytes.set(record, RECORD_BYTES);
  bytes.set(fileHeader(LAYER_NAME, 0), 2 * RECORD_BYTES);
  return bytes;
}

/**
 * The bytes after a layer of `sizeBytes` in its tar: padding, and the two zero records that end a
 * tar.
 */
export function tarSuffix(sizeBytes: number): Uint8Array {
  const end = TAR_PREFIX_BYTES + sizeBytes;
  return new Uint8Array(ceilTo(end, RECORD_BYTES) - end + 2 * RECORD_BYTES);
}

/** A file of a tar. */
export interface TarEntry {
  /** Path in the tar: ASCII, at most 100 characters. */
  readonly name: string;
  readonly bytes: Uint8Array;
}

/**
 * Makes a small tar of regular files in this order, and gives the offset of each file's bytes. The
 * same files give the same tar.
 */
export function tarOf(entries: readonly TarEntry[]): { bytes: Uint8Array; offsets: number[] } {
  const offsets: number[] = [];
  let end = 0;
  for (const { name, bytes } of entries) {
    assert(/^[!-~]{1,100}$/.test(name), `${JSON.stringify(name)} cannot name a tar entry`);
    offsets.push(end + RECORD_BYTES);
    end += RECORD_BYTES + ceilTo(bytes.length, RECORD_BYTES);
  }
  const tar = new Uint8Array(end + 2 * RECORD_BYTES);
  for (const [i, { name, bytes }] of entries.entries()) {
    const offset = offsets[i] ?? 0;
    tar.set(fileHeader(name, bytes.length), offset - RECORD_BYTES);
    tar.set(bytes, offset);
  }
  return { bytes: tar, offsets };
}

/** What stands in front of the bytes of a file in a tar. */
export function tarFileHead(name: string, sizeBytes: number): Uint8Array {
  assert(/^[!-~]{1,100}$/.test(name), `${JSON.stringify(name)} cannot name a tar entry`);
  if (sizeBytes <= OCTAL_SIZE_BYTES_MAX) return fileHeader(name, sizeBytes);
  const record = paxRecord('size', String(sizeBytes));
  const bytes = new Uint8Array(3 * RECORD_BYTES);
  bytes.set(paxHeader(record.length), 0);
  bytes.set(record, RECORD_BYTES);
  bytes.set(fileHeader(name, 0), 2 * RECORD_BYTES);
  return bytes;
}

/** The zeros after a file of this size, up to the next record. */
export function tarPadding(sizeBytes: number): Uint8Array {
  return new Uint8Array(ceilTo(sizeBytes, RECORD_BYTES) - sizeBytes);
}

async function readHeader(source: ByteSource, offset: number): Promise<TarHeader> {
  const record = await readPart(source, offset, RECORD_BYTES, 'tar header');
  if (!isTar(record)) throw damaged('tar header', `no "ustar" at ${offset + 257}`);
  const sum = parseOctal(ascii(record, 148, 8));
  const found = checksum(record);
  if (sum !== found) {
    throw damaged(
      'tar header',
      `its checksum is ${sum}, but its bytes at ${offset} sum to ${found}`,
    );
  }
  const size = parseOctal(ascii(record, 124, 12));
  if (size === undefined) {
    throw damaged('tar header', `its size ${JSON.stringify(ascii(record, 124, 12))} is not octal`);
  }
  const name = ascii(record, 0, 100).split('\0', 1)[0] ?? '';
  return { name, type: ascii(record, 156, 1), sizeBytes: size };
}

/** The `size` among PAX records `<length> <key>=<value>\n`; the last one counts. */
function sizeRecord(records: Uint8Array): number {
  const text = new TextDecoder().decode(records);
  const found = [...text.matchAll(/(?:^|\n)[0-9]+ size=([0-9]{1,16})(?=\n)/g)].at(-1)?.[1];
  const size = Number(found);
  if (found === undefined || !Number.isSafeInteger(size)) {
    throw damaged('tar PAX header', `no usable size in ${JSON.stringify(text.slice(0, 80))}`);
  }
  return size;
}

function paxRecord(key: string, value: string): Uint8Array {
  const body = ` ${key}=${value}\n`;
  let length = body.length + 1;
  while (String(length).length + body.length !== length) length++;
  return new TextEncoder().encode(length + body);
}

function paxHeader(recordLength: number): Uint8Array {
  const header = new Uint8Array(RECORD_BYTES);
  put(header, 0, 'overlaybd.pax');
  put(header, 124, recordLength.toString(8).padStart(11) + ' ');
  return sealed(header, 'x');
}

function fileHeader(name: string, sizeBytes: number): Uint8Array {
  const header = new Uint8Array(RECORD_BYTES);
  put(header, 0, name);
  put(header, 100, '100644 ');
  for (const offset of [108, 116]) put(header, offset, '     0 ');
  put(header, 124, sizeBytes.toString(8).padStart(11) + ' ');
  put(header, 136, '0'.padStart(11) + ' ');
  for (const offset of [265, 297]) put(header, offset, 'root');
  return sealed(header, '0');
}

function sealed(header: Uint8Array, type: string): Uint8Array {
  put(header, 156, type);
  put(header, 257, 'ustar\x0000');
  put(header, 148, checksum(header).toString(8).padStart(6) + ' \0');
  return header;
}

/** Sum of the header's bytes, with the checksum field counted as eight spaces. */
function checksum(record: Uint8Array): number {
  let sum = 8 * 0x20;
  for (let i = 0; i < RECORD_BYTES; i++) if (i < 148 || i >= 156) sum += record[i] ?? 0;
  return sum;
}

function parseOctal(field: string): number | undefined {
  const digits = /^ *([0-7]+)[ \0]*$/.exec(field)?.[1];
  return digits === undefined ? undefined : Number.parseInt(digits, 8);
}

function put(target: Uint8Array, offset: number, text: string): void {
  for (let i = 0; i < text.length; i++) target[offset + i] = text.charCodeAt(i);
}

function ascii(bytes: Uint8Array, offset: number, length: number): string {
  return String.fromCharCode(...bytes.subarray(offset, offset + length));
}
