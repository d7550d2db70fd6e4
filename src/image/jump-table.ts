import { rawCrc32c } from './checksum.ts';
import type { Codec } from '../runtime/codec.ts';
import { viewOf } from './binary.ts';
import { readPart, type ByteSource } from './byte-source.ts';
import { damaged, outOfRange } from './errors.ts';
import { BLOCK_CRC_BYTES, hex32, type ZFileHeader } from './zfile-header.ts';

/**
 * Blocks per stored position: a look-up adds up at most 31 lengths, and the positions cost 1/4 byte
 * per block.
 */
const CHECKPOINT_BLOCKS = 32;

/** Most blocks of a ZFile: 256 GiB at 4 KiB. The bound keeps the table in memory below 150 MB. */
export const BLOCK_COUNT_MAX = 2 ** 26;

/** Bytes of the table read at a time. A false length is found before memory is spent on it. */
const CHUNK_BYTES = 1024 * 1024;

/** The columns of a jump table, in memory that threads share. */
export interface JumpTableColumns {
  /** Stored bytes of each block. */
  readonly lengths: Uint16Array | Uint32Array;
  /** Byte offset of every 32nd block in the ZFile, and of the end of all blocks. */
  readonly checkpoints: Float64Array;
}

/**
 * Where the blocks of a ZFile lie. The file has one u32 per block: its stored bytes, CRC included.
 * In memory, the table keeps these lengths in 16 bits where they fit, and a position every 32
 * blocks.
 */
export class JumpTable {
  readonly columns: JumpTableColumns;
  readonly #lengths: Uint16Array | Uint32Array;
  readonly #checkpoints: Float64Array;

  constructor(columns: JumpTableColumns) {
    this.columns = columns;
    this.#lengths = columns.lengths;
    this.#checkpoints = columns.checkpoints;
  }

  /** Byte offset of a block in the ZFile. For the block count, the end of all blocks. */
  offsetOf(block: number): number {
    const checkpoint = Math.floor(block / CHECKPOINT_BLOCKS);
    let offset = this.#checkpoints[checkpoint] ?? 0;
    for (let i = checkpoint * CHECKPOINT_BLOCKS; i < block; i++) offset += this.#lengths[i] ?? 0;
    return offset;
  }

  /** Stored bytes of a block, or of `count` consecutive ones, their CRCs included. */
  lengthOf(block: number, count = 1): number {
    let length = 0;
    for (let i = block; i < block + count; i++) length += this.#lengths[i] ?? 0;
    return length;
  }
}

/** Reads and checks the jump table of the ZFile at byte `base` of the source. Throws ImageError. */
export async function readJumpTable(
  source: ByteSource,
  base: number,
  header: ZFileHeader,
  codec: Codec,
): Promise<JumpTable> {
  const { blockCount, blockSizeBytes } = header;
  if (blockCount > BLOCK_COUNT_MAX) {
    throw outOfRange('ZFile index_size', blockCount, `at most ${BLOCK_COUNT_MAX} blocks are read`);
  }
  const longest = storedBytesMax(blockSizeBytes);
  const shortest = header.verify ? BLOCK_CRC_BYTES + 1 : 1;
  const lengths =
    longest < 2 ** 16
      ? new Uint16Array(new SharedArrayBuffer(blockCount * 2))
      : new Uint32Array(new SharedArrayBuffer(blockCount * 4));
  let sum = header.dataOffset;
  let inverted = 0xffff_ffff;
  for (let block = 0; block < blockCount; ) {
    const count = Math.min(CHUNK_BYTES / 4, blockCount - block);
    const at = base + header.indexOffset + block * 4;
    const bytes = await readPart(source, at, count * 4, 'ZFile jump table');
    inverted = codec.crc32c(bytes, inverted);
    const view = viewOf(bytes);
    for (let i = 0; i < count; i++, block++) {
      const length = view.getUint32(i * 4, true);
      if (length < shortest || length > longest) {
        throw outOfRange(
          `ZFile jump table entry ${block}`,
          length,
          `a stored block has ${shortest} to ${longest} bytes`,
        );
      }
      lengths[block] = length;
      sum += length;
    }
  }
  checkTable(header, sum, ~inverted >>> 0);
  return new JumpTable({ lengths, checkpoints: checkpointsOf(lengths, header.dataOffset) });
}

function checkpointsOf(lengths: Uint16Array | Uint32Array, dataOffset: number): Float64Array {
  const count = Math.ceil((lengths.length + 1) / CHECKPOINT_BLOCKS);
  const checkpoints = new Float64Array(new SharedArrayBuffer(count * 8));
  let offset = dataOffset;
  for (let block = 0; block <= lengths.length; block++) {
    if (block % CHECKPOINT_BLOCKS === 0) checkpoints[block / CHECKPOINT_BLOCKS] = offset;
    offset += lengths[block] ?? 0;
  }
  return checkpoints;
}

/** The lengths in the form of the file, and their checksum. */
export function encodeJumpTable(
  lengths: Uint32Array,
  codec: Codec,
): { bytes: Uint8Array; crc: number } {
  const bytes = new Uint8Array(lengths.length * 4);
  const view = viewOf(bytes);
  lengths.forEach((length, block) => view.setUint32(block * 4, length, true));
  return { bytes, crc: rawCrc32c(codec, bytes, 0) };
}

function checkTable(header: ZFileHeader, sum: number, crc: number): void {
  if (header.indexCrc !== undefined && header.indexCrc !== crc) {
    throw damaged(
      'ZFile jump table',
      `its CRC is ${hex32(crc)}, but the header says ${hex32(header.indexCrc)}`,
    );
  }
  if (sum !== header.indexOffset) {
    throw damaged(
      'ZFile jump table',
      `its blocks end at ${sum}, but the header says that it begins at ${header.indexOffset}`,
    );
  }
}

/**
 * Most stored bytes of a block. Incompressible data grows by 1/255 + 16 bytes in LZ4
 * (lz4_Block_format), and by 1/256 + 64 bytes in ZSTD (`ZSTD_COMPRESSBOUND` for blocks this small).
 * This takes the larger terms of both, and the CRC.
 */
function storedBytesMax(blockSizeBytes: number): number {
  return blockSizeBytes + Math.ceil(blockSizeBytes / 255) + 64 + BLOCK_CRC_BYTES;
}
