import { readU64, startsWith, viewOf, writeU64 } from './binary.ts';
import { damaged, outOfRange } from './errors.ts';

/** Bytes of an LSMT header or trailer, padding included. */
export const LSMT_HEADER_BYTES = 4096;

/** Unit of every position in LSMT, in bytes. */
export const SECTOR_BYTES = 512;

/** Largest block device of an image, in bytes (1 TiB). */
export const IMAGE_SIZE_BYTES_MAX = 2 ** 40;

/** Bytes of an index entry. */
export const SEGMENT_BYTES = 16;

const STRUCT_BYTES = 390;
const MAGIC = Uint8Array.from([
  0x4c, 0x53, 0x4d, 0x54, 0x00, 0x01, 0x02, 0x00, 0x65, 0x7e, 0x63, 0xd2, 0x94, 0x44, 0x08, 0x4c,
  0xa2, 0xd2, 0xc8, 0xec, 0x4f, 0xcf, 0xae, 0x8a,
]);
const FLAG = { header: 1, data: 2, sealed: 4, sparse: 16 } as const;
const UUID = /^[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}$/;

/**
 * Header or trailer of an LSMT file: 390 bytes, zero padded to 4096.
 *
 *      0 magic (24) | 24 size u32 = 390 | 28 flags u32 | 32 index_offset u64 | 40 index_size u64
 *     48 virtual_size u64 | 56 uuid (37) | 93 parent uuid (37) | 132 version u8
 *     133 sub_version u8 | 134 user_tag (256)
 */
export interface LsmtHeader {
  readonly isHeader: boolean;
  readonly isData: boolean;
  /** Whether the layer is committed; a writable layer keeps its index in another file. */
  readonly isSealed: boolean;
  readonly isSparse: boolean;
  readonly indexOffset: number;
  /** Index entries, padding included. */
  readonly segmentCount: number;
  /** Bytes of the block device; 0 when the layer does not say. */
  readonly virtualSizeBytes: number;
  /** Upper-case 8-4-4-4-12 hex digits; empty when the file has none. */
  readonly uuid: string;
  readonly parentUuid: string;
}

/** The part of an LSMT layer that a header stands in, for error texts. */
export type LsmtPart = 'LSMT header' | 'LSMT trailer' | 'LSMT index header';

/** Whether the bytes start like an LSMT file. */
export function isLsmt(bytes: Uint8Array): boolean {
  return startsWith(bytes, MAGIC);
}

/** Reads a header or trailer. Throws ImageError. */
export function parseLsmtHeader(bytes: Uint8Array, part: LsmtPart): LsmtHeader {
  if (!isLsmt(bytes)) throw damaged(part, 'its magic number is wrong');
  const view = viewOf(bytes);
  const size = view.getUint32(24, true);
  if (size !== STRUCT_BYTES) throw damaged(part, `its size is ${size}, not ${STRUCT_BYTES}`);
  const flags = view.getUint32(28, true);
  const virtualSizeBytes = readU64(view, 48, `${part} virtual_size`);
  if (virtualSizeBytes > IMAGE_SIZE_BYTES_MAX || virtualSizeBytes % SECTOR_BYTES !== 0) {
    throw outOfRange(
      `${part} virtual_size`,
      virtualSizeBytes,
      `it must be a multiple of ${SECTOR_BYTES} up to ${IMAGE_SIZE_BYTES_MAX}`,
    );
  }
  return {
    isHeader: (flags & FLAG.header) !== 0,
    isData: (flags & FLAG.data) !== 0,
    isSealed: (flags & FLAG.sealed) !== 0,
    isSparse: (flags & FLAG.sparse) !== 0,
    indexOffset: readU64(view, 32, `${part} index_offset`),
    segmentCount: readU64(view, 40, `${part} index_size`),
    virtualSizeBytes,
    uuid: parseUuid(bytes, 56),
    parentUuid: parseUuid(bytes, 93),
  };
}

/** Fields that the writer puts into a header or trailer. */
export interface LsmtFields {
  readonly indexOffset: number;
  readonly segmentCount: number;
  readonly virtualSizeBytes: number;
  readonly uuid: string;
  readonly parentUuid?: string;
}

/** The header (with index fields of 0) or trailer of a committed layer. */
export function encodeLsmtHeader(fields: LsmtFields, which: 'header' | 'trailer'): Uint8Array {
  return which === 'header'
    ? encode({ ...fields, indexOffset: 0, segmentCount: 0 }, FLAG.header | FLAG.data | FLAG.sealed)
    : encode(fields, FLAG.data | FLAG.sealed);
}

/** The header of one of the two files of a writable layer in append mode. */
export function encodeAppendHeader(
  fields: Omit<LsmtFields, 'indexOffset' | 'segmentCount'>,
  which: 'data' | 'index',
): Uint8Array {
  return which === 'data'
    ? encode({ ...fields, indexOffset: 0, segmentCount: 0 }, FLAG.header | FLAG.data)
    : encode({ ...fields, indexOffset: LSMT_HEADER_BYTES, segmentCount: 0 }, FLAG.header);
}

function encode(fields: LsmtFields, flags: number): Uint8Array {
  const bytes = new Uint8Array(LSMT_HEADER_BYTES);
  const view = viewOf(bytes);
  bytes.set(MAGIC, 0);
  view.setUint32(24, STRUCT_BYTES, true);
  view.setUint32(28, flags, true);
  writeU64(view, 32, fields.indexOffset);
  writeU64(view, 40, fields.segmentCount);
  writeU64(view, 48, fields.virtualSizeBytes);
  bytes.set(new TextEncoder().encode(fields.uuid), 56);
  bytes.set(new TextEncoder().encode(fields.parentUuid ?? ''), 93);
  bytes[132] = 1;
  bytes[133] = 1;
  return bytes;
}

/** A uuid in the form of LSMT, made of the first 32 digits of `hex`. */
export function uuidOfHex(hex: string): string {
  const at = (from: number, to: number): string => hex.slice(from, to).toUpperCase();
  return [at(0, 8), at(8, 12), at(12, 16), at(16, 20), at(20, 32)].join('-');
}

/** The uuid, which only identifies; empty when the bytes are no uuid. */
function parseUuid(bytes: Uint8Array, offset: number): string {
  const text = String.fromCharCode(...bytes.subarray(offset, offset + 36));
  return UUID.test(text) && /[1-9A-F]/.test(text) ? text : '';
}
