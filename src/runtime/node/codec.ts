import { zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { crc32c } from '@node-rs/crc32';
import { compressSync, uncompressSync } from 'lz4-napi';
import type { Codec } from '../codec.ts';

/** lz4-napi keeps the decoded size, u32 LE, in front of the raw block. */
const LZ4_PREFIX_BYTES = 4;

/** Largest decoded block that is accepted: the size is the caller's word, but nothing in Xylem decodes more at once. */
const DECODED_SIZE_BYTES_MAX = 16 * 1024 * 1024;

/** The native codecs. Each instance has a scratch buffer of its own and is used from one thread. */
export class NodeCodec implements Codec {
  // The input is copied behind a size of our own: writing into the bytes in front of the caller's view would be
  // seen by whoever writes or hashes that memory on another thread. The copy costs 2 % of decoding.
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
    // A truncated frame comes back short, without an error: the length decides.
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
      `decoding to ${sizeBytes} bytes was asked for; ${DECODED_SIZE_BYTES_MAX} is the limit`,
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
