import type { Codec } from '../runtime/codec.ts';
import { BLOCK_SIZE_BYTES } from './block.ts';
import { readPart, type BytesAt, type ByteSource } from './byte-source.ts';
import { BLOCK_CRC_SEED, rawCrc32c } from './checksum.ts';
import type { LayerBody, RangeVisitor } from './body.ts';
import type { DecodedCache } from './decoded-cache.ts';
import { damaged } from './errors.ts';
import type { IndexBudget } from './index-budget.ts';
import { JumpTable, readJumpTable, type JumpTableColumns } from './jump-table.ts';
import type { Payload } from './tar.ts';
import {
  BLOCK_CRC_BYTES,
  checkZFileGeometry,
  headerIsFinal,
  hex32,
  parseZFileHeader,
  ZFILE_HEADER_BYTES,
  type ZFileHeader,
} from './zfile-header.ts';

/** A `ZFileBody` as plain values and shared memory, for another thread. */
export interface ZFileLayout {
  readonly kind: 'zfile';
  readonly header: ZFileHeader;
  readonly table: JumpTableColumns;
  /** Byte offset of the ZFile in the blob. */
  readonly base: number;
}

/**
 * Random access to the uncompressed bytes of a layer in a ZFile.
 *
 *     header 512 | block 0, crc | block 1, crc | ... | jump table | trailer 512
 *
 * Checks the CRC of each block before it decodes the block. Opening reads the header, the jump
 * table, and the trailer when the header is not final.
 */
export class ZFileBody implements LayerBody {
  readonly kind = 'zfile';
  readonly header: ZFileHeader;
  readonly sizeBytes: number;
  readonly #base: number;
  readonly #table: JumpTable;
  readonly #codec: Codec;

  constructor(
    components: { codec: Codec },
    init: { header: ZFileHeader; table: JumpTable; base: number },
  ) {
    this.#codec = components.codec;
    this.header = init.header;
    this.sizeBytes = init.header.sizeBytes;
    this.#table = init.table;
    this.#base = init.base;
  }

  /** Opens the ZFile that fills `payload` of the source. Throws ImageError. */
  static async open(
    source: ByteSource,
    payload: Payload,
    { codec, budget }: { readonly codec: Codec; readonly budget?: IndexBudget | undefined },
  ): Promise<ZFileBody> {
    const base = payload.offset;
    const first = await readPart(source, base, ZFILE_HEADER_BYTES, 'ZFile header');
    let header = parseZFileHeader(first, 'ZFile header', codec);
    if (!headerIsFinal(first)) {
      const at = base + payload.sizeBytes - ZFILE_HEADER_BYTES;
      const last = await readPart(source, at, ZFILE_HEADER_BYTES, 'ZFile trailer');
      header = parseZFileHeader(last, 'ZFile trailer', codec);
    }
    checkZFileGeometry(header, payload.sizeBytes);
    budget?.takeBlocks(header.blockCount);
    const table = await readJumpTable(source, base, header, codec);
    return new ZFileBody({ codec }, { header, table, base });
  }

  get layout(): ZFileLayout {
    return { kind: 'zfile', header: this.header, table: this.#table.columns, base: this.#base };
  }

  static ofLayout({ header, table, base }: ZFileLayout, codec: Codec): ZFileBody {
    return new ZFileBody({ codec }, { header, table: new JumpTable(table), base });
  }

  visitRanges(offset: number, length: number, visit: RangeVisitor): void {
    if (length === 0) return;
    const { blockSizeBytes } = this.header;
    const first = Math.floor(offset / blockSizeBytes);
    const last = Math.floor((offset + length - 1) / blockSizeBytes);
    const start = this.#table.offsetOf(first);
    visit(this.#base + start, this.#table.offsetOf(last + 1) - start);
  }

  readInto(target: Uint8Array, offset: number, bytesAt: BytesAt, cache?: DecodedCache): boolean {
    const { blockSizeBytes } = this.header;
    const end = offset + target.length;
    let block = Math.floor(offset / blockSizeBytes);
    let stored = this.#base + this.#table.offsetOf(block);
    for (let start = block * blockSizeBytes; start < end; start = block * blockSizeBytes) {
      const isWhole = start >= offset && start + this.#sizeOf(block) <= end;
      const count = isWhole ? this.#runFrom(block, stored, end) : 1;
      const storedBytes = this.#table.lengthOf(block, count);
      if (isWhole) {
        const bytes = bytesAt(stored, storedBytes);
        if (bytes === undefined) return false;
        if (count === 1) {
          const isAll = target.length === this.#sizeOf(block);
          const part = isAll ? target : this.#partOf(target, offset, block);
          this.#decode(block, bytes, 0, part);
        } else this.#decodeRun(bytes, { block, count }, target, offset);
      } else {
        const known = cache?.get(block);
        const decoded = known ?? this.#decodeNew(bytesAt(stored, storedBytes), block);
        if (decoded === undefined) return false;
        if (known === undefined) cache?.set(block, decoded);
        const from = Math.max(0, offset - start);
        target.set(decoded.subarray(from, end - start), start + from - offset);
      }
      block += count;
      stored += storedBytes;
    }
    return true;
  }

  /**
   * How many blocks from `block` on, which is used whole, are read together: they are all used
   * whole, and lie in one transfer block of the blob, so that a view of it suffices.
   */
  #runFrom(block: number, stored: number, end: number): number {
    const border = (Math.floor(stored / BLOCK_SIZE_BYTES) + 1) * BLOCK_SIZE_BYTES;
    const { blockSizeBytes } = this.header;
    let storedEnd = stored + this.#table.lengthOf(block);
    let next = block + 1;
    for (; next * blockSizeBytes + this.#sizeOf(next) <= end; next++) {
      if (next === this.header.blockCount) break;
      storedEnd += this.#table.lengthOf(next);
      if (storedEnd > border) break;
    }
    return next - block;
  }

  /** Decodes consecutive blocks to their places in the target, which begins at `offset`. */
  #decodeRun(
    bytes: Uint8Array,
    run: { block: number; count: number },
    target: Uint8Array,
    offset: number,
  ): void {
    let at = 0;
    for (let block = run.block; block < run.block + run.count; block++) {
      this.#decode(block, bytes, at, this.#partOf(target, offset, block));
      at += this.#table.lengthOf(block);
    }
  }

  /** Where the target, which begins at `offset`, has the bytes of a block. */
  #partOf(target: Uint8Array, offset: number, block: number): Uint8Array {
    const at = block * this.header.blockSizeBytes - offset;
    return target.subarray(at, at + this.#sizeOf(block));
  }

  #decodeNew(stored: Uint8Array | undefined, block: number): Uint8Array | undefined {
    if (stored === undefined) return undefined;
    const decoded = new Uint8Array(this.#sizeOf(block));
    this.#decode(block, stored, 0, decoded);
    return decoded;
  }

  /** Uncompressed bytes of a block: the last one may be shorter. */
  #sizeOf(block: number): number {
    const { blockSizeBytes } = this.header;
    return Math.min(blockSizeBytes, this.sizeBytes - block * blockSizeBytes);
  }

  /** Decodes the block whose stored bytes begin at `at`. */
  #decode(block: number, stored: Uint8Array, at: number, target: Uint8Array): void {
    const { verify, algorithm } = this.header;
    const end = at + this.#table.lengthOf(block) - (verify ? BLOCK_CRC_BYTES : 0);
    const compressed = stored.subarray(at, end);
    if (verify) {
      const said = readU32(stored, end);
      const found = rawCrc32c(this.#codec, compressed, BLOCK_CRC_SEED);
      if (said !== found) {
        throw damaged(
          `ZFile block ${block} at byte ${this.#base + this.#table.offsetOf(block)}`,
          `its CRC is ${hex32(said)}, but its bytes give ${hex32(found)}`,
        );
      }
    }
    try {
      if (algorithm === 'lz4') this.#codec.lz4Decode(compressed, target);
      else this.#codec.zstdDecode(compressed, target);
    } catch (cause) {
      throw damaged(`ZFile block ${block}`, `it does not decode to ${target.length} bytes`, cause);
    }
  }
}

function readU32(bytes: Uint8Array, at: number): number {
  const low = (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8);
  const high = (bytes[at + 2] ?? 0) | ((bytes[at + 3] ?? 0) << 8);
  return (low | (high << 16)) >>> 0;
}
