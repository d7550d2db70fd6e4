import { zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { crc32c } from '@node-rs/crc32';
import { compressSync, uncompressSync } from 'lz4-napi';
import type { Codec } from '../codec.ts';

/** Decoded size, u32 LE, that lz4-napi expects in front of the raw block. */
const LZ4_PREFIX_BYTES = 4;

/**
 * Largest decoded block. Nothing in Xylem decodes more at once: a larger size is an error of the
 * caller.
 */
const DECODED_SIZE_BYTES_MAX = 16 * 1024 * 1024;

/** The native codecs. An instance has its own scratch buffer and serves one thread. */
export class NodeCodec implements Codec {
  // The codec copies the input behind a size field of its own. The bytes in front of the caller's
  // view may belong to a writer or hasher on another thread. The copy costs 2 % of decoding.
  #scratch = Buffer.alloc(64 * 1024);

  lz4Decode(source: Uint8Array, sizeBytes: number): Uint8Array {
    checkSize(sizeBytes);
    const length = LZ4_PREFIX_BYTES + source.length;
    if (this.#scratch.length < length) this.#scratch = Buffer.alloc(length * 2);
    this.#scratch.writeUInt32LE(sizeBytes, 0);
    this.#scratch.set(source, LZ4_PREFIX_BYTES);
    return exactly(uncompressSync(this.#scratch.subarray(0, length)), sizeBytes, 'LZ4');
  }

  lz4Encode(source: Uint8Array): Uint8Array {
    return compressSync(asBuffer(source)).subarray(LZ4_PREFIX_BYTES);
  }

  zstdDecode(source: Uint8Array, sizeBytes: number): Uint8Array {
    checkSize(sizeBytes);
    // zlib decodes a truncated frame without an error, but short: the length decides.
    const decoded = zstdDecompressSync(source, { maxOutputLength: Math.max(1, sizeBytes) });
    return exactly(decoded, sizeBytes, 'ZSTD');
  }

  zstdEncode(source: Uint8Array): Uint8Array {
    return zstdCompressSync(source);
  }

  crc32c(data: Uint8Array, initial = 0): number {
    return crc32c(data, initial);
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

function exactly(decoded: Uint8Array, sizeBytes: number, name: string): Uint8Array {
  if (decoded.length !== sizeBytes) {
    throw new RangeError(
      `${name} block decodes to ${decoded.length} bytes instead of ${sizeBytes}`,
    );
  }
  return decoded;
}
