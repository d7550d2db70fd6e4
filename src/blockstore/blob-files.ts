import {
  BLOCK_SIZE_BYTES,
  blockCount,
  blockIndex,
  blockLength,
  type BlobRef,
  type BlockIndex,
} from '../image/block.ts';
import type { Codec, Hash } from '../runtime/codec.ts';
import { DiskError, type Disk } from '../runtime/disk.ts';
import { BitSet } from '../util/bit-set.ts';
import type { BufferPool } from '../util/buffer-pool.ts';
import { bytesEqual } from '../util/bytes.ts';
import type { FileCache } from './file-cache.ts';
import {
  blobPaths,
  dataOffset,
  EMPTY_RECORD,
  encodeHeader,
  RECORD_BYTES,
  RecordCodec,
  recordOffset,
} from './layout.ts';
import { readFully } from './read-fully.ts';
import type { StoredBlock } from './store.ts';
import type { SyncTarget } from './syncer.ts';

export interface BlobFilesComponents {
  readonly disk: Disk;
  readonly files: FileCache;
  readonly codec: Pick<Codec, 'crc32c'>;
  readonly hash: Pick<Hash, 'blake3'>;
  readonly pool: BufferPool;
}

/** The two files of a blob: blocks go in and come out whole or not at all. Knows nothing of who else uses them. */
export class BlobFiles implements SyncTarget {
  readonly blob: BlobRef;
  readonly paths;
  /** Blocks that can be read. Kept by the store. */
  readonly present: BitSet;
  namesUnsynced = false;
  readonly #components: BlobFilesComponents;
  readonly #records: RecordCodec;
  #made: Promise<void> | undefined;

  /** `found` when the files exist; otherwise they are made by the first `write()`. */
  constructor(components: BlobFilesComponents, init: { blob: BlobRef; found?: BitSet }) {
    this.#components = components;
    this.blob = init.blob;
    this.paths = blobPaths(init.blob.digest);
    this.present = init.found ?? new BitSet(blockCount(init.blob.sizeBytes));
    this.#records = new RecordCodec({ codec: components.codec }, { blob: init.blob });
    if (init.found !== undefined) this.#made = Promise.resolve();
  }

  /** Writes the bytes, then the record that makes them count. Rejects with DiskError. */
  async write(index: BlockIndex, block: StoredBlock): Promise<void> {
    const { files, hash } = this.#components;
    await this.#make();
    const { bytes } = block.payload;
    const record = this.#records.encode(index, {
      lengthBytes: bytes.length,
      blockDigest: hash.blake3(bytes),
      attestation: block.attestation,
    });
    await files.use(this.paths.data, 'write', (file) => file.write(bytes, dataOffset(index)));
    await this.#writeRecord(index, record);
  }

  /** Unmakes the record; the bytes stay where they are and count for nothing. Rejects with DiskError. */
  async erase(index: BlockIndex): Promise<void> {
    await this.#make();
    await this.#writeRecord(index, EMPTY_RECORD);
  }

  /** The block, whose payload the caller releases; `damaged` when what is there is not what was written. Rejects with DiskError. */
  async read(index: BlockIndex): Promise<StoredBlock | 'damaged'> {
    const { pool, hash } = this.#components;
    const lengthBytes = blockLength(this.blob.sizeBytes, index);
    const payload = pool.acquire(lengthBytes);
    const slot = new Uint8Array(RECORD_BYTES);
    // Both at once; and both must be over before the buffer can go back.
    const [data, record] = await Promise.allSettled([
      this.#fill(this.paths.data, payload.bytes, dataOffset(index)),
      this.#fill(this.paths.records, slot, recordOffset(index)),
    ]);
    const failed = data.status === 'rejected' ? data : record.status === 'rejected' ? record : null;
    if (failed !== null) {
      payload.release();
      throw failed.reason;
    }
    const found = this.#records.decode(index, slot);
    if (found !== undefined && bytesEqual(hash.blake3(payload.bytes), found.blockDigest)) {
      return { payload, attestation: found.attestation };
    }
    payload.release();
    return 'damaged';
  }

  /** Indices of the present blocks, ascending. */
  indices(): BlockIndex[] {
    return Array.from(this.present.values(), blockIndex);
  }

  /** Bytes of the present blocks: all are whole but the last of the blob. */
  presentBytes(): number {
    const { count, length } = this.present;
    const lastIsPresent = length > 0 && this.present.has(length - 1);
    const cutBytes = lastIsPresent ? length * BLOCK_SIZE_BYTES - this.blob.sizeBytes : 0;
    return count * BLOCK_SIZE_BYTES - cutBytes;
  }

  #writeRecord(index: BlockIndex, record: Uint8Array): Promise<void> {
    return this.#components.files.use(this.paths.records, 'write', (file) =>
      file.write(record, recordOffset(index)),
    );
  }

  /** What the file holds there; less than asked leaves the rest as it was, and the digest tells. */
  async #fill(path: string, target: Uint8Array, offset: number): Promise<void> {
    try {
      await this.#components.files.use(path, 'read', (file) => readFully(file, target, offset));
    } catch (error) {
      // Somebody removed the file below us: its blocks are lost, the disk is well.
      if (!(error instanceof DiskError && error.code === 'not-found')) throw error;
    }
  }

  #make(): Promise<void> {
    this.#made ??= this.#makeFiles().catch((error: unknown) => {
      this.#made = undefined;
      throw error;
    });
    return this.#made;
  }

  async #makeFiles(): Promise<void> {
    const { disk, files, codec } = this.#components;
    await disk.makeFolder(this.paths.folder);
    this.namesUnsynced = true;
    await files.use(this.paths.data, 'write', (file) => file.truncate(this.blob.sizeBytes));
    await files.use(this.paths.records, 'write', async (file) => {
      // Records of an earlier life, of which nothing is known any more.
      await file.truncate(0);
      await file.write(encodeHeader(codec, this.blob), 0);
    });
  }
}
