import type { AttestedBlock } from '../image/attested-block.ts';
import {
  blockCount,
  blockIndex,
  blockLength,
  type BlobRef,
  type BlockIndex,
} from '../image/block.ts';
import type { Codec, Hash } from '../runtime/codec.ts';
import { DiskError, type Disk } from '../runtime/disk.ts';
import type { Logger } from '../runtime/logger.ts';
import { defined } from '../util/assert.ts';
import { BitSet } from '../util/bit-set.ts';
import type { BufferPool } from '../util/buffer-pool.ts';
import { bytesEqual } from '../util/bytes.ts';
import { errorText } from '../util/errors.ts';
import type { Limiter } from '../util/limiter.ts';
import type { FileCache } from './file-cache.ts';
import {
  blobPaths,
  BLOBS_FOLDER,
  blocksOfGroup,
  dataOffset,
  dataPath,
  EMPTY_RECORD,
  encodeHeader,
  groupOf,
  RECORD_BYTES,
  RecordCodec,
  recordOffset,
} from './layout.ts';
import { readFully } from './read-fully.ts';
import type { SyncTarget } from './syncer.ts';

export interface BlobFilesComponents {
  readonly disk: Disk;
  readonly files: FileCache;
  readonly codec: Pick<Codec, 'crc32c'>;
  readonly hash: Pick<Hash, 'blake3'>;
  readonly pool: BufferPool;
  readonly logger: Logger;
  /** Of the whole store: its upkeep takes turns. */
  readonly slow: Limiter;
}

/**
 * The files of a blob: blocks go in and come out whole or not at all; groups of them go together.
 *
 * Making and removing of files follow one another in the order of the calls, and a write waits for those before it. Who calls sees to
 * it that no group is removed while one of its blocks is read, written or erased.
 */
export class BlobFiles implements SyncTarget {
  readonly blob: BlobRef;
  /** Blocks that can be read. Kept by the store. */
  readonly present: BitSet;
  readonly #paths;
  readonly #components: BlobFilesComponents;
  readonly #records: RecordCodec;
  /** Groups that have a data file. */
  readonly #groups = new Set<number>();
  /** Groups written since the last sync. */
  readonly #dirty = new Set<number>();
  /** Names that a loss of power may take: in the blob's folder, and the folder itself. */
  readonly #newNames = { inFolder: false, folder: false };
  /** Syncs of this blob's files under way: no file is removed before they end. */
  #syncing: Promise<void> = Promise.resolve();
  #made: boolean;
  /** The last making or removing of files. Never rejects. */
  #last: Promise<void> = Promise.resolve();

  /** `found` when the files exist; otherwise they are made by the first `write()`. */
  constructor(components: BlobFilesComponents, init: { blob: BlobRef; found?: BitSet }) {
    this.#components = components;
    this.blob = init.blob;
    this.#paths = blobPaths(init.blob.digest);
    this.present = init.found ?? new BitSet(blockCount(init.blob.sizeBytes));
    this.#records = new RecordCodec({ codec: components.codec }, { blob: init.blob });
    this.#made = init.found !== undefined;
    // An earlier life may have been killed before it synced the names that it made.
    if (this.#made) Object.assign(this.#newNames, { inFolder: true, folder: true });
    for (const index of this.indices()) this.#groups.add(groupOf(index));
  }

  /** Writes the bytes, then the record that makes them count. Rejects with DiskError. */
  async write(index: BlockIndex, block: AttestedBlock): Promise<void> {
    const { files, hash } = this.#components;
    await this.#last;
    if (!this.#made) await this.#inTurn(() => this.#make());
    const { bytes } = block.payload;
    const record = this.#records.encode(index, {
      lengthBytes: bytes.length,
      blockDigest: block.blockDigest ?? hash.blake3(bytes),
      attestation: block.attestation,
    });
    const group = groupOf(index);
    if (!this.#groups.has(group)) {
      this.#groups.add(group);
      this.#newNames.inFolder = true;
    }
    this.#dirty.add(group);
    await files.use(dataPath(this.#paths, group), 'write', (file) =>
      file.write(bytes, dataOffset(index)),
    );
    await this.#writeRecords(index, record);
  }

  /** Unmakes the record; the bytes stay where they are and count for nothing. Rejects with DiskError. */
  async erase(index: BlockIndex): Promise<void> {
    await this.#last;
    if (!this.#made) return;
    if (this.#groups.has(groupOf(index))) this.#dirty.add(groupOf(index));
    await this.#writeRecords(index, EMPTY_RECORD);
  }

  /** The block, whose payload the caller releases; `damaged` when what is there is not what was written. Rejects with DiskError. */
  async read(index: BlockIndex): Promise<AttestedBlock | 'damaged'> {
    const { pool, hash } = this.#components;
    const lengthBytes = blockLength(this.blob.sizeBytes, index);
    const payload = pool.acquire(lengthBytes);
    const slot = new Uint8Array(RECORD_BYTES);
    const path = dataPath(this.#paths, groupOf(index));
    // Both at once; and both must be over before the buffer can go back.
    const [data, record] = await Promise.allSettled([
      this.#fill(path, payload.bytes, dataOffset(index)),
      this.#fill(this.#paths.records, slot, recordOffset(index)),
    ]);
    const failed = data.status === 'rejected' ? data : record.status === 'rejected' ? record : null;
    if (failed !== null) {
      payload.release();
      throw failed.reason;
    }
    const found = this.#records.decode(index, slot);
    if (found !== undefined && bytesEqual(hash.blake3(payload.bytes), found.blockDigest)) {
      return { payload, attestation: found.attestation, blockDigest: found.blockDigest };
    }
    payload.release();
    return 'damaged';
  }

  /**
   * Unmakes the records of the group, then removes its data and so frees their space; of the whole folder, when nothing else of the
   * blob is kept. Rejects with DiskError when nothing was changed. What cannot be removed any more after the records is logged, and
   * removed by the next start.
   */
  removeGroup(group: number, init: { erase: boolean; whole: boolean }): Promise<void> {
    return this.#inTurn(async () => {
      if (!this.#made) return;
      if (init.erase) await this.#eraseGroup(group);
      this.#dirty.delete(group);
      this.#groups.delete(group);
      if (init.whole) this.#made = false;
      await this.#syncing;
      try {
        await this.#removeFiles(init.whole ? [...this.#groups, group] : [group], init.whole);
      } catch (error) {
        this.#components.logger.warn(
          { digest: this.blob.digest, group, error: errorText(error) },
          'the store could not remove what it evicted; the next start will',
        );
      }
    });
  }

  /** Indices of the present blocks, ascending. */
  indices(): BlockIndex[] {
    return Array.from(this.present.values(), blockIndex);
  }

  /** Present blocks of a group, ascending. */
  indicesOf(group: number): BlockIndex[] {
    const [first, count] = blocksOfGroup(group, this.present.length);
    return Array.from({ length: count }, (_, i) => blockIndex(first + i)).filter((index) =>
      this.present.has(index),
    );
  }

  /** Makes durable what was written before the call. Tries everything and rejects with the first DiskError. */
  sync(): Promise<void> {
    const done = this.#syncing.then(() => this.#sync());
    this.#syncing = done.catch(() => {});
    return done;
  }

  async #sync(): Promise<void> {
    if (!this.#made) return;
    const { disk, files } = this.#components;
    const { folder, shard, records } = this.#paths;
    const names = { ...this.#newNames };
    const groups = [...this.#dirty];
    this.#dirty.clear();
    const steps = [
      ...(names.folder ? [() => disk.syncFolder(BLOBS_FOLDER)] : []),
      ...groups.map((group) => () => this.#syncFile(dataPath(this.#paths, group))),
      ...(groups.length > 0 ? [() => files.use(records, 'write', (file) => file.sync())] : []),
      ...(names.inFolder ? [() => disk.syncFolder(folder)] : []),
      ...(names.folder ? [() => disk.syncFolder(shard)] : []),
    ];
    const errors: unknown[] = [];
    for (const step of steps) {
      await this.#slowly(step).catch((error: unknown) => errors.push(error));
    }
    if (errors.length > 0) throw errors[0];
    if (names.inFolder) this.#newNames.inFolder = false;
    if (names.folder) this.#newNames.folder = false;
  }

  #syncFile(path: string): Promise<void> {
    return this.#components.files.use(path, 'write', (file) => file.sync());
  }

  #writeRecords(first: BlockIndex, records: Uint8Array): Promise<void> {
    return this.#components.files.use(this.#paths.records, 'write', (file) =>
      file.write(records, recordOffset(first)),
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

  async #eraseGroup(group: number): Promise<void> {
    const [first, count] = blocksOfGroup(group, this.present.length);
    try {
      const records = new Uint8Array(count * RECORD_BYTES);
      await this.#slowly(() => this.#writeRecords(blockIndex(first), records));
    } catch (error) {
      // A disk so full that not even zeros can be written needs the removal most; the start drops records without data.
      if (!(error instanceof DiskError && error.code === 'no-space')) throw error;
    }
  }

  async #removeFiles(groups: readonly number[], whole: boolean): Promise<void> {
    const { disk, files } = this.#components;
    for (const group of groups) await files.forget(dataPath(this.#paths, group));
    if (whole) await files.forget(this.#paths.records);
    for (const group of groups) {
      await this.#slowly(() => disk.remove(dataPath(this.#paths, group)));
    }
    if (whole) await this.#slowly(() => disk.remove(this.#paths.folder));
  }

  /** Runs upkeep, which may take a thread for long, when it is its turn. */
  #slowly(action: () => Promise<void>): Promise<void> {
    return defined(
      this.#components.slow.run(action),
      'a blob waits for one sync and one removal at most',
    );
  }

  /** Runs it after all that were asked for before. */
  #inTurn(action: () => Promise<void>): Promise<void> {
    const done = this.#last.then(action);
    this.#last = done.catch(() => {});
    return done;
  }

  async #make(): Promise<void> {
    if (this.#made) return;
    const { disk, files, codec } = this.#components;
    const { folder, records } = this.#paths;
    // Of an earlier life, of which nothing is known any more.
    await files.forget(records);
    await disk.remove(folder);
    await disk.makeFolder(folder);
    await files.use(records, 'write', (file) => file.write(encodeHeader(codec, this.blob), 0));
    Object.assign(this.#newNames, { inFolder: true, folder: true });
    this.#groups.clear();
    this.#made = true;
  }
}
