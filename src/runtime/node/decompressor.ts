import { pipeline, Readable, type Transform } from 'node:stream';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import type { Compression, Decompressor } from '../decompressor.ts';
import { ZstdFrames } from './zstd-frames.ts';

/** Decoded bytes in one piece. */
const PIECE_BYTES = 256 * 1024;

/** The decompressors of zlib, on its threads. */
export class NodeDecompressor implements Decompressor {
  decompress(
    compression: Compression,
    chunks: AsyncIterable<Uint8Array>,
  ): AsyncIterable<Uint8Array> {
    return compression === 'gzip'
      ? through(createGunzip({ chunkSize: PIECE_BYTES }), chunks)
      : through(createZstdDecompress({ chunkSize: PIECE_BYTES }), wholeFrames(chunks));
  }
}

async function* through(
  decoder: Transform,
  chunks: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array, void> {
  // An error of the source, of the decoder or a reader that stops ends all of them.
  pipeline(Readable.from(chunks, { highWaterMark: 1 }), decoder, () => {});
  for await (const piece of decoder) yield piece as Uint8Array;
}

async function* wholeFrames(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void> {
  const frames = new ZstdFrames();
  for await (const chunk of chunks) yield* frames.split(chunk);
  if (!frames.isBetween) throw new RangeError('the stream ends within a zstd frame');
}
