import type { Codec } from '../runtime/codec.ts';
import { readU64, startsWith, viewOf, writeU64 } from './binary.ts';
import { rawCrc32c } from './checksum.ts';
import { damaged, ImageError, outOfRange } from './errors.ts';

/** Bytes of a ZFile's header or trailer, padding included. */
export const ZFILE_HEADER_BYTES = 512;

/** Smallest block size that overlaybd reads, in bytes; the largest follows. */
export const ZFILE_BLOCK_BYTES_MIN = 4 * 1024;
const ZFILE_BLOCK_BYTES_MAX = 64 * 1024;

/** Bytes of the CRC after a block. */
export const BLOCK_CRC_BYTES = 4;

/** Most uncompressed bytes of a layer, 2 TiB: 32 bits number its 512-byte sectors. */
export const LAYER_SIZE_BYTES_MAX = 2 ** 32 * 512;

const STRUCT_BYTES = 96;
const MAGIC = Uint8Array.from([
  0x5a, 0x46, 0x69, 0x6c, 0x65, 0x00, 0x01, 0x00, 0x74, 0x75, 0x6a, 0x69, 0x2e, 0x79, 0x79, 0x66,
  0x40, 0x41, 0x6c, 0x69, 0x62, 0x61, 0x62, 0x61,
]);
const FLAG = { header: 1, data: 2, sealed: 4, overwritten: 8, digest: 16 } as const;
const ALGORITHMS = { 1: 'lz4', 2: 'zstd' } as const;

/** Compression of the blocks of a ZFile. */
export type ZFileAlgorithm = (typeof ALGORITHMS)[keyof typeof ALGORITHMS];

/**
 * Header or trailer of a ZFile: 96 bytes, zero padded to a sector of 512.
 *
 *      0 magic (24) | 24 size u32 = 96 | 28 digest u32 | 32 flags u64 | 40 index_offset u64
 *     48 index_size u64 | 56 original_file_size u64 | 64 index_crc u32 | 72 block_size u32
 *     76 algo u8 | 78 use_dict u8 | 84 dict_size u32 | 88 verify u8
 */
export interface ZFileHeader {
  readonly flags: number;
  /** Byte offset of the jump table in the ZFile. */
  readonly indexOffset: number;
  /** Number of blocks, and so of entries of the jump table. */
  readonly blockCount: number;
  /** Uncompressed bytes. */
  readonly sizeBytes: number;
  /** Checksum of the jump table; undefined in files of the old kind without one. */
  readonly indexCrc: number | undefined;
  readonly blockSizeBytes: number;
  readonly algorithm: ZFileAlgorithm;
  /** Byte offset of block 0. */
  readonly dataOffset: number;
  /** Whether a CRC follows every block. */
  readonly verify: boolean;
}

/** Whether the bytes start like a ZFile. */
export function isZFile(bytes: Uint8Array): boolean {
  return startsWith(bytes, MAGIC);
}

/** Whether the index fields of this header count; otherwise the fields of the trailer do. */
export function headerIsFinal(sector: Uint8Array): boolean {
  return (viewOf(sector).getUint32(32, true) & FLAG.overwritten) !== 0;
}

/**
 * Reads a header or trailer. Ignores unused fields and bits, which hold garbage in old files.
 * Throws ImageError.
 */
export function parseZFileHeader(
  sector: Uint8Array,
  part: 'ZFile header' | 'ZFile trailer',
  codec: Codec,
): ZFileHeader {
  if (!isZFile(sector)) throw damaged(part, 'its magic number is wrong');
  const view = viewOf(sector);
  const flags = view.getUint32(32, true);
  const checked = (flags & FLAG.digest) !== 0;
  if (checked) checkDigest(sector, part, codec);
  if (((flags & FLAG.header) !== 0) !== (part === 'ZFile header')) {
    throw damaged(
      part,
      `flags ${flags} do not fit a ${part === 'ZFile header' ? 'header' : 'trailer'}`,
    );
  }
  const algorithm = ALGORITHMS[view.getUint8(76) as 1 | 2] as ZFileAlgorithm | undefined;
  if (algorithm === undefined) {
    throw new ImageError(
      `${part} names compression ${view.getUint8(76)}; Xylem reads 1 (LZ4) and 2 (ZSTD)`,
      { code: 'unsupported', part },
    );
  }
  const dictBytes = view.getUint32(84, true);
  if (view.getUint8(78) !== 0 && dictBytes > 0) {
    throw new ImageError(`${part} names a dictionary, which Xylem does not read`, {
      code: 'unsupported',
      part,
    });
  }
  return {
    flags,
    indexOffset: readU64(view, 40, `${part} index_offset`),
    blockCount: readU64(view, 48, `${part} index_size`),
    sizeBytes: readU64(view, 56, `${part} original_file_size`),
    indexCrc: checked ? view.getUint32(64, true) : undefined,
    blockSizeBytes: checkBlockSize(view.getUint32(72, true), part),
    algorithm,
    dataOffset: ZFILE_HEADER_BYTES + dictBytes,
    verify: view.getUint8(88) !== 0,
  };
}

/**
 * Checks that sizes and positions agree with each other and with a ZFile of `fileBytes`. Call it
 * before allocating memory by them. Throws ImageError.
 */
export function checkZFileGeometry(header: ZFileHeader, fileBytes: number): void {
  const { sizeBytes, blockCount, blockSizeBytes, indexOffset } = header;
  if (sizeBytes > LAYER_SIZE_BYTES_MAX) {
    throw outOfRange(
      'ZFile original_file_size',
      sizeBytes,
      `at most ${LAYER_SIZE_BYTES_MAX} bytes are read`,
    );
  }
  const expected = Math.ceil(sizeBytes / blockSizeBytes);
  if (blockCount !== expected) {
    throw outOfRange(
      'ZFile index_size',
      blockCount,
      `${sizeBytes} bytes in blocks of ${blockSizeBytes} make ${expected} blocks`,
    );
  }
  const end = indexOffset + blockCount * 4;
  if (indexOffset < header.dataOffset || end + ZFILE_HEADER_BYTES > fileBytes) {
    throw outOfRange(
      'ZFile index_offset',
      indexOffset,
      `the jump table of ${blockCount} blocks must lie after ${header.dataOffset} ` +
        `and before the trailer of a file of ${fileBytes} bytes`,
    );
  }
}

/** Fields that a writer knows at the end of a file. */
export interface ZFileGeometry {
  readonly indexOffset: number;
  readonly blockCount: number;
  readonly sizeBytes: number;
  readonly indexCrc: number;
  readonly blockSizeBytes: number;
  readonly algorithm: ZFileAlgorithm;
}

/** The sector of a final header or trailer, with its digest. */
export function encodeZFileHeader(
  geometry: ZFileGeometry,
  which: 'header' | 'trailer',
  codec: Codec,
): Uint8Array {
  const sector = new Uint8Array(ZFILE_HEADER_BYTES);
  const view = viewOf(sector);
  sector.set(MAGIC, 0);
  view.setUint32(24, STRUCT_BYTES, true);
  const flags =
    which === 'header'
      ? FLAG.header | FLAG.data | FLAG.overwritten | FLAG.digest
      : FLAG.data | FLAG.sealed | FLAG.digest;
  writeU64(view, 32, flags);
  writeU64(view, 40, geometry.indexOffset);
  writeU64(view, 48, geometry.blockCount);
  writeU64(view, 56, geometry.sizeBytes);
  view.setUint32(64, geometry.indexCrc, true);
  view.setUint32(72, geometry.blockSizeBytes, true);
  view.setUint8(76, geometry.algorithm === 'lz4' ? 1 : 2);
  view.setUint8(88, 1);
  view.setUint32(28, rawCrc32c(codec, sector, 0), true);
  return sector;
}

function checkDigest(sector: Uint8Array, part: string, codec: Codec): void {
  const copy = sector.slice(0, ZFILE_HEADER_BYTES);
  const view = viewOf(copy);
  const said = view.getUint32(28, true);
  view.setUint32(28, 0, true);
  const found = rawCrc32c(codec, copy, 0);
  if (said !== found) {
    throw damaged(part, `its digest is ${hex32(said)}, but its bytes give ${hex32(found)}`);
  }
}

function checkBlockSize(sizeBytes: number, part: string): number {
  const power = (sizeBytes & (sizeBytes - 1)) === 0;
  if (!power || sizeBytes < ZFILE_BLOCK_BYTES_MIN || sizeBytes > ZFILE_BLOCK_BYTES_MAX) {
    throw outOfRange(
      `${part} block_size`,
      sizeBytes,
      `it must be a power of two from ${ZFILE_BLOCK_BYTES_MIN} to ${ZFILE_BLOCK_BYTES_MAX}`,
    );
  }
  return sizeBytes;
}

/** A 32-bit checksum in 8 hex digits, for error texts. */
export function hex32(value: number): string {
  return value.toString(16).padStart(8, '0');
}
