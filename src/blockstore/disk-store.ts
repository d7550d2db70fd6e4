import { blockLength, type BlobRef, type BlockIndex } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Codec, Hash } from '../runtime/codec.ts';
import { DiskError, type Disk, type DiskLock } from '../runtime/disk.ts';
import type { Logger } from '../runtime/logger.ts';
import type { Metrics } from '../runtime/metrics.ts';
import { assert } from '../util/assert.ts';
import type { BitSet } from '../util/bit-set.ts';
import type { BufferPool } from '../util/buffer-pool.ts';
import { MIB } from '../util/bytes.ts';
import { errorText } from '../util/errors.ts';
import { Limiter } from '../util/limiter.ts';
import { BlobFiles } from './blob-files.ts';
import {
  BlockStoreError,
  busyError,
  checkBlock,
  checkSize,
  stoppedError,
  storeError,
} from './errors.ts';
import { FileCache } from './file-cache.ts';
import { BLOBS_FOLDER } from './layout.ts';
import { storeMetrics, type StoreMetrics } from './metrics.ts';
import { scanStore } from './scan.ts';
import type { BlockStore, BlockStoreStats, StoredBlock } from './store.ts';
import { SpaceGuard } from './space-guard.ts';
import { Syncer } from './syncer.ts';
import { checkVersion } from './version.ts';

/** Blocks written at a time. Node has four threads for files: half of them stay for reads, which something waits for. */
const WRITES_RUNNING_MAX = 2;

/** Puts and drops that wait for their turn; puts are bounded by `queueBytesMax` too. Beyond it they reject with `busy`. */
const WRITES_WAITING_MAX = 4096;

/** Blocks read at a time: 4 MiB of buffers, more than enough for the threads that there are. */
const READS_RUNNING_MAX = 16;

/** Gets that wait for their turn; beyond it they reject with `busy`. */
const READS_WAITING_MAX = 4096;

/** Blobs kept: some hundred bytes of memory each, and one bit a block. A put that would begin another is refused. */
const BLOBS_MAX = 65_536;

const DISK_STORE_DEFAULTS = {
  /** Bytes accepted and not written yet: a second of writing at the speed of a slow disk. */
  queueBytesMax: 64 * MIB,
  /** Files held open, idle ones included; half of the usual limit of 1,024 descriptors stays for connections. */
  filesOpenMax: 256,
  /** Time from a write to the sync that covers it, in milliseconds: half of the second that durability may lag. */
  syncIntervalMs: 500,
  /** Free bytes of the file system below which nothing more is written: the host needs a disk that is not full. */
  freeBytesMin: 512 * MIB,
} as const;

interface DiskStoreInit {
  readonly queueBytesMax?: number;
  readonly filesOpenMax?: number;
  readonly syncIntervalMs?: number;
  readonly freeBytesMin?: number;
}

interface DiskStoreComponents {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly codec: Pick<Codec, 'crc32c'>;
  readonly hash: Pick<Hash, 'blake3'>;
  /** Where `get()` takes its buffers from; slabs of a block at least. */
  readonly pool: BufferPool;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

/** The latest change of a block under way. Changes of one block follow one another. */
interface Change {
  readonly kind: 'put' | 'drop';
  readonly done: Promise<void>;
}

interface Entry {
  readonly files: BlobFiles;
  readonly changes: Map<BlockIndex, Change>;
}

/**
 * The store on disk, laid out as docs/ON_DISK_FORMAT.md says.
 *
 * A put resolves when the block can be read and would survive the death of the process; it survives a loss of power a second
 * later, or after `stop()`. Every get checks the bytes against their digest: a block that was torn or has rotted is dropped, counted
 * and reported as absent. An unreadable block (EIO) is dropped as well, and the get rejects. Nothing here is worth more than
 * fetching it again, so that errors of the disk cost blocks and never stop the host.
 */
export class DiskStore implements BlockStore {
  readonly #components: DiskStoreComponents;
  readonly #init: Required<DiskStoreInit>;
  readonly #metrics: StoreMetrics;
  readonly #files: FileCache;
  readonly #syncer: Syncer;
  readonly #space: SpaceGuard;
  readonly #blobs = new Map<Digest, Entry>();
  readonly #reads = new Limiter({ runningMax: READS_RUNNING_MAX, waitingMax: READS_WAITING_MAX });
  readonly #writes = new Limiter({
    runningMax: WRITES_RUNNING_MAX,
    waitingMax: WRITES_WAITING_MAX,
  });
  /** What `stop()` waits for. */
  readonly #underWay = new Set<Promise<unknown>>();
  #lock: DiskLock | undefined;
  #state: 'stopped' | 'starting' | 'running' | 'stopping' = 'stopped';
  #stopping: Promise<void> = Promise.resolve();
  #queuedBytes = 0;
  #blockCount = 0;
  #sizeBytes = 0;

  constructor(components: DiskStoreComponents, init: DiskStoreInit = {}) {
    const { disk, logger, clock } = components;
    this.#components = components;
    this.#init = { ...DISK_STORE_DEFAULTS, ...init };
    this.#metrics = storeMetrics(components.metrics);
    this.#files = new FileCache({ disk, logger }, { openMax: this.#init.filesOpenMax });
    this.#syncer = new Syncer(
      { disk, files: this.#files, clock, logger, metrics: this.#metrics },
      { intervalMs: this.#init.syncIntervalMs },
    );
    this.#space = new SpaceGuard(
      { disk, clock, logger },
      { freeBytesMin: this.#init.freeBytesMin },
    );
  }

  /** Rejects with `version`, `locked`, or the disk's word; then nothing is held. */
  async start(): Promise<void> {
    assert(this.#state === 'stopped', `a block store was started that is ${this.#state}`);
    this.#state = 'starting';
    const { disk } = this.#components;
    try {
      await disk.makeFolder('');
      this.#lock = await disk.lock('');
      await checkVersion(disk);
      await disk.makeFolder(BLOBS_FOLDER);
      await this.#space.check();
      for (const found of await scanStore(this.#components, { blobsMax: BLOBS_MAX })) {
        const { files } = this.#adopt(found.blob, found.present);
        this.#count(files.present.count, files.presentBytes());
      }
      this.#state = 'running';
    } catch (error) {
      await this.#leave();
      throw storeError('cannot start the block store', error);
    }
  }

  /** Rejects with the first error of the last sync, after everything was closed and released all the same. */
  stop(): Promise<void> {
    if (this.#state === 'running') this.#stopping = this.#stop();
    return this.#stopping;
  }

  has(digest: Digest, index: BlockIndex): boolean {
    return this.#state === 'running' && this.#blobs.get(digest)?.files.present.has(index) === true;
  }

  get(blob: BlobRef, index: BlockIndex): Promise<StoredBlock | undefined> {
    return this.#operation('get', async () => {
      const entry = this.#blobs.get(blob.digest);
      if (entry === undefined || !entry.files.present.has(index)) {
        this.#metrics.blocks.inc({ event: 'miss' });
        return undefined;
      }
      checkSize(entry.files.blob, blob);
      const read = this.#reads.run(() => this.#read(entry, index));
      if (read === undefined) throw busyError('read a block', `${READS_WAITING_MAX} reads wait`);
      return read;
    });
  }

  put(blob: BlobRef, index: BlockIndex, block: StoredBlock): Promise<void> {
    return this.#operation('put', async () => {
      checkBlock(blob, index, block.payload.length);
      const entry = this.#blobs.get(blob.digest) ?? this.#begin(blob);
      checkSize(entry.files.blob, blob);
      const latest = entry.changes.get(index);
      if (latest?.kind === 'put') return latest.done;
      if (latest === undefined && entry.files.present.has(index)) return;
      return this.#write(entry, index, block);
    });
  }

  drop(digest: Digest, index: BlockIndex): Promise<void> {
    return this.#operation('drop', async () => {
      const entry = this.#blobs.get(digest);
      const latest = entry?.changes.get(index);
      if (entry === undefined) return;
      if (latest?.kind === 'drop') return latest.done;
      if (latest === undefined && !entry.files.present.has(index)) return;
      return this.#forgetBlock(entry, index);
    });
  }

  blobs(): readonly BlobRef[] {
    if (this.#state !== 'running') return [];
    return Array.from(this.#blobs.values(), ({ files }) => files)
      .filter((files) => files.present.count > 0)
      .map((files) => files.blob);
  }

  blocksOf(digest: Digest): readonly BlockIndex[] {
    if (this.#state !== 'running') return [];
    return this.#blobs.get(digest)?.files.indices() ?? [];
  }

  stats(): BlockStoreStats {
    return {
      blobCount: this.blobs().length,
      blockCount: this.#blockCount,
      sizeBytes: this.#sizeBytes,
    };
  }

  async #stop(): Promise<void> {
    this.#state = 'stopping';
    await Promise.allSettled(this.#underWay);
    this.#syncer.stop();
    try {
      await this.#syncer.flush();
    } catch (error) {
      throw storeError('cannot make all blocks durable', error);
    } finally {
      await this.#leave();
    }
  }

  async #leave(): Promise<void> {
    await this.#files.closeAll();
    this.#blobs.clear();
    this.#count(-this.#blockCount, -this.#sizeBytes);
    await this.#lock?.release();
    this.#lock = undefined;
    this.#state = 'stopped';
  }

  /** Runs a call of the store: counted when it fails, waited for by `stop()`. */
  #operation<T>(operation: 'put' | 'get' | 'drop', action: () => Promise<T>): Promise<T> {
    const result = this.#attempt(operation, action);
    this.#underWay.add(result);
    const over = (): void => void this.#underWay.delete(result);
    result.then(over, over);
    return result;
  }

  async #attempt<T>(operation: 'put' | 'get' | 'drop', action: () => Promise<T>): Promise<T> {
    if (this.#state !== 'running') throw stoppedError();
    try {
      return await action();
    } catch (cause) {
      const error = storeError(`the block store cannot ${operation} a block`, cause);
      const code = error instanceof BlockStoreError ? error.code : 'io';
      this.#metrics.errors.inc({ operation, code });
      throw error;
    }
  }

  async #write(
    entry: Entry,
    index: BlockIndex,
    { payload, attestation }: StoredBlock,
  ): Promise<void> {
    const lengthBytes = payload.length;
    try {
      this.#checkRoom(lengthBytes);
    } catch (error) {
      this.#forgetIfEmpty(entry);
      throw error;
    }
    payload.retain();
    this.#queue(lengthBytes);
    try {
      await this.#change(entry, index, 'put', async () => {
        await entry.files.write(index, { payload, attestation });
        this.#syncer.touch(entry.files);
        this.#metrics.blocks.inc({ event: 'written' });
      });
    } finally {
      payload.release();
      this.#queue(-lengthBytes);
    }
  }

  /** Puts the work behind the change of the same block that is under way, and behind other writes. */
  #change(
    entry: Entry,
    index: BlockIndex,
    kind: Change['kind'],
    work: () => Promise<void>,
  ): Promise<void> {
    const before = entry.changes.get(index)?.done;
    const run = async (): Promise<void> => {
      await before?.catch(() => {});
      try {
        const written = this.#writes.run(work);
        if (written === undefined) {
          throw busyError(`${kind} a block`, `${WRITES_WAITING_MAX} writes wait`);
        }
        await written;
        // A drop that came meanwhile has the last word.
        if (kind === 'put' && entry.changes.get(index) === change) this.#setPresent(entry, index);
      } finally {
        if (entry.changes.get(index) === change) entry.changes.delete(index);
        this.#forgetIfEmpty(entry);
      }
    };
    const change: Change = { kind, done: Promise.resolve().then(run) };
    entry.changes.set(index, change);
    return change.done;
  }

  async #read(entry: Entry, index: BlockIndex): Promise<StoredBlock | undefined> {
    try {
      // Twice, since a block that was dropped and put again meanwhile is read as a mixture of both.
      for (let attempt = 0; attempt < 2; attempt++) {
        const block = await entry.files.read(index);
        if (block !== 'damaged') {
          this.#metrics.blocks.inc({ event: 'hit' });
          return block;
        }
        if (!entry.files.present.has(index)) break;
      }
    } catch (error) {
      if (error instanceof DiskError && error.code === 'io') this.#dropLost(entry, index, error);
      throw error;
    }
    if (entry.files.present.has(index)) this.#dropLost(entry, index);
    this.#metrics.blocks.inc({ event: 'miss' });
    return undefined;
  }

  /** Forgets a block that cannot be read. That it cannot even be erased is no further concern: every read checks. */
  #dropLost(entry: Entry, index: BlockIndex, cause?: DiskError): void {
    const { digest } = entry.files.blob;
    const reason = cause === undefined ? 'its bytes are not those that were put' : errorText(cause);
    this.#components.logger.warn({ digest, index, reason }, 'a block in the store was lost');
    this.#metrics.blocks.inc({ event: 'damaged' });
    if (entry.changes.get(index)?.kind === 'drop') return;
    this.#operation('drop', () => this.#forgetBlock(entry, index)).catch(() => {});
  }

  #forgetBlock(entry: Entry, index: BlockIndex): Promise<void> {
    if (entry.files.present.delete(index)) {
      this.#count(-1, -blockLength(entry.files.blob.sizeBytes, index));
    }
    this.#metrics.blocks.inc({ event: 'dropped' });
    return this.#change(entry, index, 'drop', async () => {
      await entry.files.erase(index);
      this.#syncer.touch(entry.files);
    });
  }

  #setPresent(entry: Entry, index: BlockIndex): void {
    if (!entry.files.present.add(index)) return;
    this.#count(1, blockLength(entry.files.blob.sizeBytes, index));
  }

  #checkRoom(lengthBytes: number): void {
    const { queueBytesMax, freeBytesMin } = this.#init;
    if (!this.#space.hasRoom()) {
      throw new BlockStoreError(
        `the block store keeps no more blocks: less than ${freeBytesMin} bytes of the disk are free`,
        { code: 'no-space' },
      );
    }
    if (this.#queuedBytes + lengthBytes > queueBytesMax) {
      const limit = `${this.#queuedBytes} of ${queueBytesMax} bytes wait to be written`;
      throw busyError(`put ${lengthBytes} bytes`, limit);
    }
  }

  /** An entry for a blob of which nothing is kept yet. */
  #begin(blob: BlobRef): Entry {
    if (this.#blobs.size >= BLOBS_MAX) {
      throw new BlockStoreError(
        `cannot keep blocks of ${blob.digest}: the block store holds ${BLOBS_MAX} blobs already`,
        { code: 'too-many-blobs' },
      );
    }
    return this.#adopt(blob);
  }

  #adopt(blob: BlobRef, found?: BitSet): Entry {
    const { disk, codec, hash, pool } = this.#components;
    const files = new BlobFiles(
      { disk, codec, hash, pool, files: this.#files },
      found === undefined ? { blob } : { blob, found },
    );
    const entry = { files, changes: new Map() };
    this.#blobs.set(blob.digest, entry);
    return entry;
  }

  /** What is left of it on disk counts for nothing: a later put begins anew, and the next start removes it. */
  #forgetIfEmpty(entry: Entry): void {
    const { blob, present } = entry.files;
    if (present.count > 0 || entry.changes.size > 0) return;
    if (this.#blobs.get(blob.digest) === entry) this.#blobs.delete(blob.digest);
  }

  #queue(bytes: number): void {
    this.#queuedBytes += bytes;
    this.#metrics.queuedBytes.set({}, this.#queuedBytes);
  }

  #count(blocks: number, bytes: number): void {
    this.#blockCount += blocks;
    this.#sizeBytes += bytes;
    this.#metrics.present.set({}, this.#blockCount);
    this.#metrics.sizeBytes.set({}, this.#sizeBytes);
  }
}
