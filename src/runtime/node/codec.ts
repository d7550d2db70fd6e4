import { zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { crc32c } from '@node-rs/crc32';
import { compressSync, uncompressSync } from 'lz4-napi';
import type { Codec } from '../codec.ts';
import { LZ4_BLOCK_BYTES_MAX, Lz4Decoder } from './lz4-decoder.ts';

/** Decoded size, u32 LE, that lz4-napi expects in front of the raw block. */
const LZ4_PREFIX_BYTES = 4;

/**
 * Largest decoded block. Nothing in Xylem decodes more at once: a larger size is an error of the
 * caller.
 */
const DECODED_SIZE_BYTES_MAX = 16 * 1024 * 1024;

/**
 * Decodes a ZSTD frame, which has to fill the target exactly: false for input that is damaged or
 * decodes to another size.
 */
export type ZstdDecode = (source: Uint8Array, target: Uint8Array) => boolean;

/** The native codecs. An instance has memory of its own and serves one thread. */
export class NodeCodec implements Codec {
  readonly #zstd: (() => ZstdDecode | undefined) | undefined;
  /** Made when they are needed: few processes decode. */
  #lz4: Lz4Decoder | 'none' | undefined;
  #zstdDecode: ZstdDecode | 'zlib' | undefined;

  /** `zstd`: makes another decoder than Node's, if it can. */
  constructor(init: { zstd?: () => ZstdDecode | undefined } = {}) {
    this.#zstd = init.zstd;
  }

  lz4Decode(source: Uint8Array, target: Uint8Array): void {
    this.#lz4 ??= makeLz4Decoder();
    const isLarge = Math.max(source.length, target.length) > LZ4_BLOCK_BYTES_MAX;
    if (isLarge || this.#lz4 === 'none') return this.#lz4DecodeNative(source, target);
    if (!this.#lz4.decode(source, target)) {
      throw new RangeError(`LZ4 block does not decode to ${target.length} bytes`);
    }
  }

  lz4Encode(source: Uint8Array): Uint8Array {
    return compressSync(asBuffer(source)).subarray(LZ4_PREFIX_BYTES);
  }

  zstdDecode(source: Uint8Array, target: Uint8Array): void {
    checkSize(target.length);
    this.#zstdDecode ??= this.#zstd?.() ?? 'zlib';
    if (this.#zstdDecode !== 'zlib') {
      if (this.#zstdDecode(source, target)) return;
      throw new RangeError(`ZSTD frame does not decode to ${target.length} bytes`);
    }
    // zlib decodes a truncated frame without an error, but short: the length decides.
    const decoded = zstdDecompressSync(source, { maxOutputLength: Math.max(1, target.length) });
    fill(target, decoded, 'ZSTD');
  }

  zstdEncode(source: Uint8Array): Uint8Array {
    return zstdCompressSync(source);
  }

  crc32c(data: Uint8Array, initial = 0): number {
    return crc32c(data, initial);
  }

  /** By lz4-napi, which copies the input behind a size field of its own. */
  #lz4DecodeNative(source: Uint8Array, target: Uint8Array): void {
    checkSize(target.length);
    const framed = Buffer.allocUnsafe(LZ4_PREFIX_BYTES + source.length);
    framed.writeUInt32LE(target.length, 0);
    framed.set(source, LZ4_PREFIX_BYTES);
    fill(target, uncompressSync(framed), 'LZ4');
  }
}

/** WebAssembly needs 10 GB of address space, which a limit of the process may not leave. */
function makeLz4Decoder(): Lz4Decoder | 'none' {
  try {
    return new Lz4Decoder();
  } catch {
    return 'none';
  }
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function checkSize(sizeBytes: number): void {
  if (sizeBytes > DECODED_SIZE_BYTES_MAX) {
    throw new RangeError(
      `cannot decode to ${sizeBytes} bytes: the limit is ${DECODED_SIZE_BYTES_MAX}`,
    );
  }
}

function fill(target: Uint8Array, decoded: Uint8Array, name: string): void {
  if (decoded.length !== target.length) {
    throw new RangeError(
      `${name} block decodes to ${decoded.length} bytes instead of ${target.length}`,
    );
  }
  target.set(decoded);
}
