import { NodeCodec } from '../../src/runtime/node/codec.ts';
import type { ByteSink, ByteSource } from '../../src/image/byte-source.ts';
import { LayerWriter } from '../../src/image/layer-writer.ts';
import type { ZFileOptions } from '../../src/image/zfile-writer.ts';

export const codec = new NodeCodec();

/** A sink in memory that grows, up to 64 MiB. */
export class MemorySink implements ByteSink {
  #bytes = new Uint8Array(new ArrayBuffer(0, { maxByteLength: 64 * 1024 * 1024 }));

  get bytes(): Uint8Array {
    return this.#bytes;
  }

  write(offset: number, bytes: Uint8Array): Promise<void> {
    const end = offset + bytes.length;
    if (end > this.#bytes.length) this.#bytes.buffer.resize(end);
    this.#bytes.set(bytes, offset);
    return Promise.resolve();
  }
}

/** Bytes that compress to about half, the same for the same seed. */
export function sampleBytes(length: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let state = seed * 2654435761 + 1;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    bytes[i] = i % 64 < 32 ? state >>> 24 : (i >>> 6) & 0xff;
  }
  return bytes;
}

/** A layer blob in memory with the given ranges of a device. */
export async function makeLayer(init: {
  virtualSizeBytes: number;
  ranges: readonly { offset: number; bytes: Uint8Array }[];
  options?: ZFileOptions;
}): Promise<Uint8Array> {
  const sink = new MemorySink();
  const uuid = '01234567-89AB-CDEF-0123-456789ABCDEF';
  const { virtualSizeBytes, options } = init;
  const writer = new LayerWriter(
    { codec, sink },
    { virtualSizeBytes, uuid, ...(options && { options }) },
  );
  for (const range of init.ranges) await writer.write(range.offset, range.bytes);
  const size = await writer.finish();
  return sink.bytes.slice(0, size);
}

/** A source that counts its reads. */
export function countingSource(source: ByteSource): ByteSource & { readonly reads: number[] } {
  const reads: number[] = [];
  return {
    sizeBytes: source.sizeBytes,
    reads,
    read: (offset, length) => {
      reads.push(length);
      return source.read(offset, length);
    },
  };
}
