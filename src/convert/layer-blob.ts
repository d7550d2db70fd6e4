import type { Codec, Hash } from '../runtime/codec.ts';
import { toHex } from '../util/bytes.ts';
import { BLOCK_SIZE_BYTES, blockCount } from '../image/block.ts';
import { BlockDigests } from '../image/block-digests.ts';
import { readPart, type ByteSource } from '../image/byte-source.ts';
import { digestOfSha256, type Digest } from '../image/digest.ts';
import { dataRuns } from '../image/disk-runs.ts';
import { LayerWriter } from '../image/layer-writer.ts';
import { uuidOfHex } from '../image/lsmt-header.ts';
import type { LocalFile } from './files.ts';

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
 * Writes a disk as one layer blob, without its zeros. The layer's uuid is derived from the sha256
 * of the disk's data. Other tools derive it from the digest of the blob, which cannot contain
 * itself. Throws ConvertError, ImageError, or the signal's reason.
 */
export async function writeLayerBlob(
  components: { codec: Codec; hash: Hash },
  disk: ByteSource,
  blob: LocalFile,
  options: ProgressOptions,
): Promise<WrittenLayer> {
  const { signal, onProgress } = options;
  const uuid = await contentUuid(components.hash, disk, signal);
  const writer = new LayerWriter(
    { codec: components.codec, sink: blob },
    { virtualSizeBytes: disk.sizeBytes, uuid },
  );
  for await (const run of dataRuns(disk, signal)) {
    await writer.write(run.offset, run.bytes);
    onProgress?.('compressing', run.offset, disk.sizeBytes);
  }
  const sizeBytes = await writer.finish();
  await blob.sync();
  const { digest, blockDigests } = await digestsOf(components.hash, blob, options);
  const layer = { digest, sizeBytes };
  return { layer, blockDigests: BlockDigests.make(layer, blockDigests) };
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

async function contentUuid(
  hash: Hash,
  disk: ByteSource,
  signal: AbortSignal | undefined,
): Promise<string> {
  const stream = hash.sha256Stream();
  const place = new Uint8Array(16);
  const view = new DataView(place.buffer);
  view.setFloat64(0, disk.sizeBytes, true);
  stream.update(place);
  for await (const { offset, bytes } of dataRuns(disk, signal)) {
    view.setFloat64(0, offset, true);
    view.setFloat64(8, bytes.length, true);
    stream.update(place);
    stream.update(bytes);
  }
  return uuidOfHex(toHex(stream.digest()));
}
