import type { Codec } from '../runtime/codec.ts';
import { viewOf } from './binary.ts';
import { BLOCK_SIZE_BYTES } from './block.ts';
import { readPart, type BytesAt, type ByteSource } from './byte-source.ts';
import { BLOCK_CRC_SEED, rawCrc32c } from './checksum.ts';
import type { LayerBody, RangeVisitor } from './body.ts';
import type { DecodedCache } from './decoded-cache.ts';
import { damaged } from './errors.ts';
import { readJumpTable, type JumpTable } from './jump-table.ts';
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
  static async open(source: ByteSource, payload: Payload, codec: Codec): Promise<ZFileBody> {
    const base = payload.offset;
    const first = await readPart(source, base, ZFILE_HEADER_BYTES, 'ZFile header');
    let header = parseZFileHeader(first, 'ZFile header', codec);
    if (!headerIsFinal(first)) {
      const at = base + payload.sizeBytes - ZFILE_HEADER_BYTES;
      const last = await readPart(source, at, ZFILE_HEADER_BYTES, 'ZFile trailer');
      header = parseZFileHeader(last, 'ZFile trailer', codec);
    }
    checkZFileGeometry(header, payload.sizeBytes);
    const table = await readJumpTable(source, base, header, codec);
    return new ZFileBody({ codec }, { header, table, base });
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
    while (block * blockSizeBytes < end) {
      const run = this.#runOf(block, stored, { offset, end });
      const cached = run.count === 1 ? cache?.get(block) : undefined;
      if (cached !== undefined) this.#copy(cached, block, target, offset);
      else {
        const bytes = bytesAt(stored, run.lengthBytes);
        if (bytes === undefined) return false;
        this.#decodeRun(bytes, { block, count: run.count }, { target, offset, cache });
      }
      block += run.count;
      stored += run.lengthBytes;
    }
    return true;
  }

  /**
   * Consecutive blocks from `block` on that are read together: they are used whole and lie in one
   * transfer block of the blob, so that a view of it suffices. A block that crosses a border, or is
   * used in part, is read alone.
   */
  #runOf(
    block: number,
    stored: number,
    use: { offset: number; end: number },
  ): { count: number; lengthBytes: number } {
    const border = (Math.floor(stored / BLOCK_SIZE_BYTES) + 1) * BLOCK_SIZE_BYTES;
    const { blockSizeBytes } = this.header;
    const { offset, end } = use;
    let count = 1;
    let lengthBytes = this.#table.lengthOf(block);
    if (block * blockSizeBytes < offset) return { count, lengthBytes };
    for (let next = block + 1; (next + 1) * blockSizeBytes <= end; next++) {
      const length = this.#table.lengthOf(next);
      if (stored + lengthBytes + length > border) break;
      lengthBytes += length;
      count++;
    }
    return { count, lengthBytes };
  }

  #decodeRun(
    bytes: Uint8Array,
    run: { block: number; count: number },
    to: { target: Uint8Array; offset: number; cache: DecodedCache | undefined },
  ): void {
    const { blockSizeBytes } = this.header;
    let at = 0;
    for (let block = run.block; block < run.block + run.count; block++) {
      const length = this.#table.lengthOf(block);
      const decoded = this.#decode(block, bytes.subarray(at, at + length));
      at += length;
      this.#copy(decoded, block, to.target, to.offset);
      const start = block * blockSizeBytes;
      const whole = start >= to.offset && start + decoded.length <= to.offset + to.target.length;
      if (!whole) to.cache?.set(block, decoded);
    }
  }

  #decode(block: number, stored: Uint8Array): Uint8Array {
    const length = stored.length - (this.header.verify ? BLOCK_CRC_BYTES : 0);
    const compressed = stored.subarray(0, length);
    if (this.header.verify) {
      const said = viewOf(stored).getUint32(length, true);
      const found = rawCrc32c(this.#codec, compressed, BLOCK_CRC_SEED);
      if (said !== found) {
        throw damaged(
          `ZFile block ${block} at byte ${this.#base + this.#table.offsetOf(block)}`,
          `its CRC is ${hex32(said)}, but its bytes give ${hex32(found)}`,
        );
      }
    }
    const { blockSizeBytes, algorithm } = this.header;
    const size = Math.min(blockSizeBytes, this.sizeBytes - block * blockSizeBytes);
    try {
      return algorithm === 'lz4'
        ? this.#codec.lz4Decode(compressed, size)
        : this.#codec.zstdDecode(compressed, size);
    } catch (cause) {
      throw damaged(`ZFile block ${block}`, `it does not decode to ${size} bytes`, cause);
    }
  }

  /** Copies the part of a decoded block that lies in [offset, offset + target.length). */
  #copy(decoded: Uint8Array, block: number, target: Uint8Array, offset: number): void {
    const start = block * this.header.blockSizeBytes;
    const from = Math.max(0, offset - start);
    const to = Math.min(decoded.length, offset + target.length - start);
    target.set(
      from === 0 && to === decoded.length ? decoded : decoded.subarray(from, to),
      start + from - offset,
    );
  }
}
