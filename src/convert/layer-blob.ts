import type { Hash } from '../runtime/codec.ts';
import { BLOCK_SIZE_BYTES, blockCount } from '../image/block.ts';
import type { BlockDigests } from '../image/block-digests.ts';
import { readPart, type ByteSource } from '../image/byte-source.ts';
import { digestOfSha256, type Digest } from '../image/digest.ts';

/** Bytes hashed at a time; a multiple of the block size. */
const CHUNK_BYTES = 4 * BLOCK_SIZE_BYTES;

/** How to stop a command, and where to report its progress. */
export interface ProgressOptions {
  readonly signal?: AbortSignal;
  /** Called with the bytes done and the bytes to do of the current step. */
  readonly onProgress?: (step: string, doneBytes: number, totalBytes: number) => void;
}

/** Digest and size of a layer blob. */
export interface LayerBlob {
  readonly digest: Digest;
  readonly sizeBytes: number;
}

/** A written layer blob, with the digests of its blocks. */
export interface WrittenLayer {
  readonly layer: LayerBlob;
  readonly blockDigests: BlockDigests;
}

/**
 * Digest of a blob, and the BLAKE3 digests of its blocks in order, 32 bytes each. Throws the
 * signal's reason when it aborts.
 */
export async function digestsOf(
  hash: Hash,
  source: ByteSource,
  options: ProgressOptions,
): Promise<{ digest: Digest; blockDigests: Uint8Array }> {
  const stream = hash.sha256Stream();
  const blockDigests = new Uint8Array(32 * blockCount(source.sizeBytes));
  for (let offset = 0; offset < source.sizeBytes; offset += CHUNK_BYTES) {
    options.signal?.throwIfAborted();
    const length = Math.min(CHUNK_BYTES, source.sizeBytes - offset);
    const chunk = await readPart(source, offset, length, 'layer blob');
    stream.update(chunk);
    for (let start = 0; start < length; start += BLOCK_SIZE_BYTES) {
      const block = chunk.subarray(start, start + BLOCK_SIZE_BYTES);
      blockDigests.set(hash.blake3(block), 32 * ((offset + start) / BLOCK_SIZE_BYTES));
    }
    options.onProgress?.('hashing', offset + length, source.sizeBytes);
  }
  return { digest: digestOfSha256(stream.digest()), blockDigests };
}
