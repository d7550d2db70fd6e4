import type { Codec } from '../runtime/codec.ts';
import { assert } from '../util/assert.ts';
import { viewOf } from './binary.ts';
import type { ByteSink } from './byte-source.ts';
import { BLOCK_CRC_SEED, rawCrc32c } from './checksum.ts';
import { encodeJumpTable } from './jump-table.ts';
import {
  BLOCK_CRC_BYTES,
  encodeZFileHeader,
  ZFILE_BLOCK_BYTES_MIN,
  ZFILE_HEADER_BYTES,
  type ZFileAlgorithm,
} from './zfile-header.ts';

/** Most compressed bytes per write: at least 128 blocks of 4 KiB. */
const OUTPUT_BYTES = 1024 * 1024;

/** Lengths that the table of a new file has room for; the room doubles when it is full. */
const LENGTHS_FIRST = 4096;

/**
 * Largest block that is written, in bytes: overlaybd itself fails to read incompressible blocks of
 * 64 KiB.
 */
const WRITTEN_BLOCK_BYTES_MAX = 32 * 1024;

/** Compression of a ZFile. */
export interface ZFileOptions {
  readonly blockSizeBytes: number;
  readonly algorithm: ZFileAlgorithm;
}

/** The choice of overlaybd's own tools: random reads of a container decode the least. */
export const ZFILE_DEFAULTS: ZFileOptions = {
  blockSizeBytes: ZFILE_BLOCK_BYTES_MIN,
  algorithm: 'lz4',
};

/**
 * Writes a ZFile from uncompressed bytes in order. Its memory is one output buffer and the jump
 * table. Life: `write()` any number of times, then `finish()` once. After an error the file is
 * unusable.
 */
export class ZFileWriter {
  readonly #codec: Codec;
  readonly #sink: ByteSink;
  readonly #base: number;
  readonly #options: ZFileOptions;
  readonly #block: Uint8Array;
  readonly #output: Uint8Array;
  #lengths = new Uint32Array(LENGTHS_FIRST);
  #blockCount = 0;
  #blockFill = 0;
  #outputFill = 0;
  #sizeBytes = 0;
  #flushedTo = ZFILE_HEADER_BYTES;

  /** `base`: byte offset in the sink at which the file begins. */
  constructor(
    components: { codec: Codec; sink: ByteSink },
    init: { base: number; options: ZFileOptions },
  ) {
    const { blockSizeBytes } = init.options;
    assert(
      blockSizeBytes <= WRITTEN_BLOCK_BYTES_MAX,
      `cannot write blocks of ${blockSizeBytes} bytes; the limit is ${WRITTEN_BLOCK_BYTES_MAX}`,
    );
    this.#codec = components.codec;
    this.#sink = components.sink;
    this.#base = init.base;
    this.#options = init.options;
    this.#block = new Uint8Array(blockSizeBytes);
    this.#output = new Uint8Array(OUTPUT_BYTES);
  }

  /** Uncompressed bytes written so far. */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  async write(bytes: Uint8Array): Promise<void> {
    const size = this.#block.length;
    for (let done = 0; done < bytes.length; ) {
      const rest = bytes.length - done;
      if (this.#blockFill === 0 && rest >= size) {
        await this.#put(bytes.subarray(done, done + size));
        done += size;
        continue;
      }
      const count = Math.min(size - this.#blockFill, rest);
      this.#block.set(bytes.subarray(done, done + count), this.#blockFill);
      this.#blockFill += count;
      done += count;
      if (this.#blockFill === size) await this.#putFill();
    }
    this.#sizeBytes += bytes.length;
  }

  /**
   * Writes the remaining bytes, the jump table, the trailer and the header; gives the size of the
   * whole ZFile in bytes.
   */
  async finish(): Promise<number> {
    if (this.#blockFill > 0) await this.#putFill();
    await this.#flush();
    const table = encodeJumpTable(this.#lengths.subarray(0, this.#blockCount), this.#codec);
    const geometry = {
      ...this.#options,
      indexOffset: this.#flushedTo,
      blockCount: this.#blockCount,
      sizeBytes: this.#sizeBytes,
      indexCrc: table.crc,
    };
    const end = this.#flushedTo + table.bytes.length;
    await this.#sink.write(this.#base + this.#flushedTo, table.bytes);
    await this.#sink.write(this.#base + end, encodeZFileHeader(geometry, 'trailer', this.#codec));
    await this.#sink.write(this.#base, encodeZFileHeader(geometry, 'header', this.#codec));
    return end + ZFILE_HEADER_BYTES;
  }

  async #putFill(): Promise<void> {
    const fill = this.#blockFill;
    this.#blockFill = 0;
    await this.#put(this.#block.subarray(0, fill));
  }

  async #put(block: Uint8Array): Promise<void> {
    const compressed =
      this.#options.algorithm === 'lz4'
        ? this.#codec.lz4Encode(block)
        : this.#codec.zstdEncode(block);
    const stored = compressed.length + BLOCK_CRC_BYTES;
    if (this.#outputFill + stored > this.#output.length) await this.#flush();
    this.#output.set(compressed, this.#outputFill);
    const crc = rawCrc32c(this.#codec, compressed, BLOCK_CRC_SEED);
    viewOf(this.#output).setUint32(this.#outputFill + compressed.length, crc, true);
    this.#outputFill += stored;
    if (this.#blockCount === this.#lengths.length) {
      const wider = new Uint32Array(this.#lengths.length * 2);
      wider.set(this.#lengths);
      this.#lengths = wider;
    }
    this.#lengths[this.#blockCount++] = stored;
  }

  async #flush(): Promise<void> {
    if (this.#outputFill === 0) return;
    const bytes = this.#output.subarray(0, this.#outputFill);
    await this.#sink.write(this.#base + this.#flushedTo, bytes);
    this.#flushedTo += this.#outputFill;
    this.#outputFill = 0;
  }
}
