import { BLOCK_SIZE_BYTES, type BlobRef } from '../../image/block.ts';
import type { BytesAt } from '../../image/byte-source.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Codec, Hash } from '../../runtime/codec.ts';
import type { BlobReader } from '../../transfer/contracts/blob-reader.ts';
import { MIB } from '../../util/bytes.ts';
import type { HeldStore } from './held-image.ts';
import { SharedFiles } from './shared-files.ts';
import { StoreReader } from './store-reader.ts';

/** What it holds of the store at a time: the files of a few layers, the blocks of their indices. */
const BOUNDS = { filesMax: 16, memoryBytesMax: 8 * MIB };

/**
 * Runs work with a reader of the blobs that looks into the store's files first, and asks `others`
 * for what they lack. It is for the little that is read when an image is opened, which needs no
 * agent then: it blocks the thread while the disk reads.
 */
export async function withHeldFirst<T>(
  components: {
    others: BlobReader;
    clock: Pick<Clock, 'nowMs' | 'wallMs'>;
    codec: Pick<Codec, 'crc32c'>;
    hash: Pick<Hash, 'blake3'>;
  },
  init: { store: HeldStore; blobs: readonly BlobRef[] },
  work: (reader: BlobReader) => Promise<T>,
): Promise<T> {
  const { others } = components;
  const { store, blobs } = init;
  const shared = new SharedFiles(new SharedArrayBuffer(SharedFiles.sizeBytes));
  shared.setBounds(BOUNDS);
  const { sources } = new StoreReader(
    { ...components, shared },
    {
      ...store,
      blobs: blobs.map((blob) => ({
        ...{ blob, by: 'blocks' },
        digests: store.digestsOf(blob.digest),
      })),
    },
  );
  const reader: BlobReader = {
    read: async (blob, offset, length, options) => {
      const bytesAt = sources[blobs.findIndex(({ digest }) => digest === blob.digest)];
      const held = bytesAt === undefined ? undefined : readHeld(bytesAt, offset, length);
      return held ?? (await others.read(blob, offset, length, options));
    },
    readCached: (...range) => others.readCached(...range),
  };
  try {
    return await work(reader);
  } finally {
    shared.closeAll();
  }
}

/** A range of a blob, in memory of its own; undefined when the store lacks some of it. */
function readHeld(bytesAt: BytesAt, offset: number, length: number): Uint8Array | undefined {
  const target = new Uint8Array(length);
  for (let done = 0; done < length; ) {
    const at = offset + done;
    const count = Math.min(length - done, BLOCK_SIZE_BYTES - (at % BLOCK_SIZE_BYTES));
    const bytes = bytesAt(at, count);
    if (bytes === undefined) return undefined;
    target.set(bytes, done);
    done += count;
  }
  return target;
}
