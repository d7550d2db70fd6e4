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
  GROUP_BLOCKS,
  groupOf,
  RECORD_BYTES,
  RecordCodec,
  recordOffset,
  type BlobPaths,
} from './layout.ts';
import { readFully } from '../runtime/whole-file.ts';
import type { SyncTarget } from './syncer.ts';

/** One promise for all blobs at rest: a store has many thousands of them. */
export const DONE = Promise.resolve();

/** What the files of a blob need; the store's blobs share it. */
export interface BlobFilesComponents {
  readonly disk: Disk;
  readonly files: FileCache;
  readonly codec: Pick<Codec, 'crc32c'>;
  readonly hash: Pick<Hash, 'blake3'>;
  readonly pool: BufferPool;
  readonly logger: Logger;
  /** Limits the upkeep of the whole store. */
  readonly slow: Limiter;
}

/** What a loss of power may take. */
interface Unsynced {
  /** Groups written since the last sync. */
  readonly groups: Set<number>;
  /** Names in the blob's folder. */
  inFolder: boolean;
  /** The folder itself. */
  folder: boolean;
}

/**
 * The files of a blob. Blocks are written and read whole or not at all; groups of blocks are
 * removed together.
 *
 * Files are created and removed in the order of the calls, and a write waits for earlier creations
 * and removals. The caller ensures that no group is removed while one of its blocks is read,
 * written or erased.
 */
export class BlobFiles implements SyncTarget {
  readonly blob: BlobRef;
  /** Readable blocks. The store maintains it. */
  readonly present: BitSet;
  readonly #components: BlobFilesComponents;
  /** Groups that have a data file. */
  readonly #groups: BitSet;
  /** Undefined at rest. */
  #unsynced: Unsynced | undefined;
  /** Syncs of this blob's files in flight: no file is removed before they end. */
  #syncing = DONE;
  /** Whether there are files; `found`: of an earlier run, and nothing was written since. */
  #state: 'none' | 'found' | 'made';
  /** The last creation or removal of files. Never rejects. */
  #last = DONE;

  /** `found`: the blocks of existing files. Without it, the first `write()` creates the files. */
  constructor(components: BlobFilesComponents, init: { blob: BlobRef; found?: BitSet }) {
    this.#components = components;
    this.blob = init.blob;
    this.present = init.found ?? new BitSet(blockCount(init.blob.sizeBytes));
    this.#state = init.found === undefined ? 'none' : 'found';
    this.#groups = new BitSet(Math.ceil(this.present.length / GROUP_BLOCKS));
    for (const index of this.present.values()) this.#groups.add(groupOf(blockIndex(index)));
  }

  /** Made anew for each use, as the codec is: a store has many thousands of blobs. */
  get #paths(): BlobPaths {
    return blobPaths(this.blob.digest);
  }

  get #records(): RecordCodec {
    return new RecordCodec(this.#components, { blob: this.blob });
  }

  /** Writes the bytes, then the record that makes them valid. Rejects with DiskError. */
  async write(index: BlockIndex, block: AttestedBlock): Promise<void> {
    const { files, hash } = this.#components;
    await this.#last;
    if (this.#state === 'none') await this.#inTurn(() => this.#make());
    const { bytes } = block.payload;
    const record = this.#records.encode(index, {
      lengthBytes: bytes.length,
      blockDigest: block.blockDigest ?? hash.blake3(bytes),
      attestation: block.attestation,
    });
    const group = groupOf(index);
    const unsynced = this.#begin();
    if (this.#groups.add(group)) unsynced.inFolder = true;
    unsynced.groups.add(group);
    await files.use(dataPath(this.#paths, group), 'write', (file) =>
      file.write(bytes, dataOffset(index)),
    );
    await this.#writeRecords(index, record);
  }

  /**
   * Erases the record; the bytes stay in the file, but are no longer valid. Rejects with DiskError.
   */
  async erase(index: BlockIndex): Promise<void> {
    await this.#last;
    if (this.#state === 'none') return;
    const unsynced = this.#begin();
    if (this.#groups.has(groupOf(index))) unsynced.groups.add(groupOf(index));
    await this.#writeRecords(index, EMPTY_RECORD);
  }

  /**
   * Reads a block, whose payload the caller releases. Gives `damaged` when the bytes differ from
   * the written ones. Rejects with DiskError.
   */
  async read(index: BlockIndex): Promise<AttestedBlock | 'damaged'> {
    const { pool, hash } = this.#components;
    const lengthBytes = blockLength(this.blob.sizeBytes, index);
    const payload = pool.acquire(lengthBytes);
    const slot = new Uint8Array(RECORD_BYTES);
    const path = dataPath(this.#paths, groupOf(index));
    // Both reads run at once, and both must end before the buffer can return to the pool.
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
   * Erases the records of the group (`erase`), then removes its data file and so frees the space.
   * With `whole`, when no other block of the blob is kept, removes the whole folder. Rejects with
   * DiskError when nothing was changed. When the removal fails after the records are erased, logs
   * that: the next start removes the files.
   */
  removeGroup(group: number, init: { erase: boolean; whole: boolean }): Promise<void> {
    return this.#inTurn(async () => {
      if (this.#state === 'none') return;
      if (init.erase) await this.#eraseGroup(group);
      this.#unsynced?.groups.delete(group);
      this.#groups.delete(group);
      if (init.whole) this.#state = 'none';
      await this.#syncing;
      try {
        const groups = init.whole ? [...this.#groups.values(), group] : [group];
        await this.#removeFiles(groups, init.whole);
      } catch (error) {
        this.#components.logger.warn(
          { digest: this.blob.digest, group, error: errorText(error) },
          'the store could not remove evicted blocks from the disk; the next start will',
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

  /**
   * Makes all writes before the call durable. Tries every step, then rejects with the first
   * DiskError.
   */
  sync(): Promise<void> {
    const done = this.#syncing.then(() => this.#sync());
    const over = done.catch(() => {});
    this.#syncing = over;
    void over.then(() => {
      if (this.#syncing === over) this.#syncing = DONE;
    });
    return done;
  }

  async #sync(): Promise<void> {
    const unsynced = this.#unsynced;
    this.#unsynced = undefined;
    if (this.#state === 'none' || unsynced === undefined) return;
    const { disk, files } = this.#components;
    const { folder, shard, records } = this.#paths;
    const groups = [...unsynced.groups];
    const steps = [
      ...(unsynced.folder ? [() => disk.syncFolder(BLOBS_FOLDER)] : []),
      ...groups.map((group) => () => this.#syncFile(dataPath(this.#paths, group))),
      ...(groups.length > 0 ? [() => files.use(records, 'write', (file) => file.sync())] : []),
      ...(unsynced.inFolder ? [() => disk.syncFolder(folder)] : []),
      ...(unsynced.folder ? [() => disk.syncFolder(shard)] : []),
    ];
    const errors: unknown[] = [];
    for (const step of steps) {
      await this.#slowly(step).catch((error: unknown) => errors.push(error));
    }
    if (errors.length === 0) return;
    // Of a file, the kernel has dropped the pages; a folder can be synced again.
    const left = this.#begin();
    left.inFolder ||= unsynced.inFolder;
    left.folder ||= unsynced.folder;
    throw errors[0];
  }

  #begin(): Unsynced {
    // An earlier run may have been killed before it synced new names.
    const wasFound = this.#state === 'found';
    if (wasFound) this.#state = 'made';
    return (this.#unsynced ??= { groups: new Set(), inFolder: wasFound, folder: wasFound });
  }

  #syncFile(path: string): Promise<void> {
    return this.#components.files.use(path, 'write', (file) => file.sync());
  }

  #writeRecords(first: BlockIndex, records: Uint8Array): Promise<void> {
    return this.#components.files.use(this.#paths.records, 'write', (file) =>
      file.write(records, recordOffset(first)),
    );
  }

  /**
   * Reads into the target. After a short read its rest is unchanged, and the digest will not match.
   */
  async #fill(path: string, target: Uint8Array, offset: number): Promise<void> {
    try {
      await this.#components.files.use(path, 'read', (file) => readFully(file, target, offset));
    } catch (error) {
      // Another program removed the file: its blocks are lost, but the disk is sound.
      if (!(error instanceof DiskError && error.code === 'not-found')) throw error;
    }
  }

  async #eraseGroup(group: number): Promise<void> {
    const [first, count] = blocksOfGroup(group, this.present.length);
    try {
      const records = new Uint8Array(count * RECORD_BYTES);
      await this.#slowly(() => this.#writeRecords(blockIndex(first), records));
    } catch (error) {
      // A disk too full even for zeros needs the removal most; the next start drops records without
      // data.
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

  /** Runs upkeep in its turn: it may block a thread for long. */
  #slowly(action: () => Promise<void>): Promise<void> {
    return defined(
      this.#components.slow.run(action),
      'a blob has at most one sync and one removal waiting',
    );
  }

  /** Runs the action after all earlier ones. */
  #inTurn(action: () => Promise<void>): Promise<void> {
    const done = this.#last.then(action);
    const over = done.catch(() => {});
    this.#last = over;
    void over.then(() => {
      if (this.#last === over) this.#last = DONE;
    });
    return done;
  }

  async #make(): Promise<void> {
    if (this.#state !== 'none') return;
    const { disk, files, codec } = this.#components;
    const { folder, records } = this.#paths;
    // Files of an earlier run may remain, without any readable block.
    await files.forget(records);
    await disk.remove(folder);
    await disk.makeFolder(folder);
    await files.use(records, 'write', (file) => file.write(encodeHeader(codec, this.blob), 0));
    this.#unsynced = { groups: new Set(), inFolder: true, folder: true };
    for (const group of [...this.#groups.values()]) this.#groups.delete(group);
    this.#state = 'made';
  }
}
