/** How a stream is compressed. */
export type Compression = 'gzip' | 'zstd';

/**
 * Undoes compression of whole streams, piece by piece, injected, since the real one is native code.
 * Runs beside the calling thread.
 */
export interface Decompressor {
  /**
   * The bytes that went in, in pieces of its own. Reads concatenated gzip members and zstd frames
   * as one stream. Holds a few pieces and the window of the format: at most 128 MiB, for zstd.
   * Throws what the chunks throw, and an Error for input that is damaged or ends too early.
   */
  decompress(
    compression: Compression,
    chunks: AsyncIterable<Uint8Array>,
  ): AsyncIterable<Uint8Array>;
}
