import { blockLength, type BlobRef, type BlockIndex } from '../image/block.ts';
import type { AttestedBlock } from '../image/attested-block.ts';
import type { Digest } from '../image/digest.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Codec, Hash } from '../runtime/codec.ts';
import { DiskError, type Disk, type DiskLock } from '../runtime/disk.ts';
import type { Logger } from '../runtime/logger.ts';
import type { Metrics } from '../runtime/metrics.ts';
import { assert, defined } from '../util/assert.ts';
import type { BitSet } from '../util/bit-set.ts';
import type { BufferPool } from '../util/buffer-pool.ts';
import { errorText } from '../util/errors.ts';
import { Limiter } from '../util/limiter.ts';
import { BlobEntry, type Change } from './blob-entry.ts';
import { BlobFiles, type BlobFilesComponents } from './blob-files.ts';
import {
  BlockStoreError,
  busyError,
  checkBlock,
  checkSize,
  OPERATION_WORDS,
  quotaError,
  stoppedError,
  storeError,
  tooManyBlobs,
  tooManyPins,
  type StoreOperation,
} from './errors.ts';
import { Evictor } from './evictor.ts';
import { FileCache } from './file-cache.ts';
import { GroupTable, type Group } from './group-table.ts';
import { BLOBS_FOLDER } from './layout.ts';
import { Ledger, PINS_MAX } from './ledger.ts';
import {
  DISK_STORE_DEFAULTS,
  READS_RUNNING_MAX,
  READS_WAITING_MAX,
  SLOW_RUNNING_MAX,
  SLOW_WAITING_MAX,
  WRITES_RUNNING_MAX,
  WRITES_WAITING_MAX,
  type DiskStoreInit,
} from './limits.ts';
import { storeMetrics, type StoreMetrics } from './metrics.ts';
import { findOthers, foundBlocks, scanStore, type FoundBlob } from './scan.ts';
import type { BlobUsage, BlockStore, BlockStoreStats, Evicted, MatchesDigest } from './store.ts';
import { SpaceGuard } from './space-guard.ts';
import { Syncer } from './syncer.ts';
import { usageOf } from './usage.ts';
import { checkVersion } from './version.ts';
import { WriteHealth } from './write-health.ts';

interface DiskStoreComponents {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly codec: Pick<Codec, 'crc32c'>;
  readonly hash: Pick<Hash, 'blake3'>;
  /** Buffers for `get()`; slabs of at least a block. */
  readonly pool: BufferPool;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

/**
 * The store on disk, in the format of docs/ON_DISK_FORMAT.md.
 *
 * A put resolves when the block is readable and survives the death of the process; a second later,
 * or after `stop()`, it survives a loss of power. Every get checks the digest: it drops and counts
 * a torn or rotten block, and reports it absent. It drops an unreadable block (EIO) too, and
 * rejects. Blocks can be fetched again: errors of the disk cost blocks and never stop the host.
 *
 * Near its quota, or with less than `freeBytesMin` free on the disk, the store evicts groups one at
 * a time, beside puts and gets, in the order of src/blockstore/eviction.ts.
 */
export class DiskStore implements BlockStore {
  readonly #components: DiskStoreComponents;
  readonly #init: Required<DiskStoreInit>;
  readonly #metrics: StoreMetrics;
  readonly #files: FileCache;
  readonly #ofFiles: BlobFilesComponents;
  readonly #syncer: Syncer;
  readonly #space: SpaceGuard;
  readonly #health: WriteHealth;
  readonly #table = new GroupTable();
  readonly #ledger: Ledger;
  readonly #evictor: Evictor;
  readonly #blobs = new Map<Digest, BlobEntry>();
  readonly #reads = new Limiter({ runningMax: READS_RUNNING_MAX, waitingMax: READS_WAITING_MAX });
  readonly #writes = new Limiter({
    runningMax: WRITES_RUNNING_MAX,
    waitingMax: WRITES_WAITING_MAX,
  });
  readonly #slow = new Limiter({ runningMax: SLOW_RUNNING_MAX, waitingMax: SLOW_WAITING_MAX });
  /** Work in flight, for which `stop()` waits. */
  readonly #underWay = new Set<Promise<unknown>>();
  #lock: DiskLock | undefined;
  #state: 'stopped' | 'starting' | 'running' | 'stopping' = 'stopped';
  #stopping: Promise<void> = Promise.resolve();
  #queuedBytes = 0;
  /** Bytes evicted, but not freed yet. */
  #leavingBytes = 0;

  constructor(components: DiskStoreComponents, init: DiskStoreInit = {}) {
    const { disk, logger, clock } = components;
    this.#components = components;
    this.#init = { ...DISK_STORE_DEFAULTS, ...init };
    this.#metrics = storeMetrics(components.metrics);
    const { quotaBytes } = this.#init;
    this.#metrics.quotaBytes.set({}, Number.isFinite(quotaBytes) ? quotaBytes : 0);
    this.#files = new FileCache({ disk, logger }, { openMax: this.#init.filesOpenMax });
    this.#ofFiles = { ...components, files: this.#files, slow: this.#slow };
    this.#syncer = new Syncer(
      { clock, logger, metrics: this.#metrics },
      { intervalMs: this.#init.syncIntervalMs },
    );
    const heldBytes = (): number => this.#table.sizeBytes;
    this.#space = new SpaceGuard(
      { disk, clock, logger, usedBytes: heldBytes, onRoom: (has) => this.#health.full(!has) },
      { freeBytesMin: this.#init.freeBytesMin },
    );
    this.#health = new WriteHealth({ logger, failing: this.#metrics.writesFailing });
    this.#ledger = new Ledger({ ...components, table: this.#table, slow: this.#slow });
    this.#evictor = new Evictor({
      clock,
      logger,
      heldBytes,
      usedBytes: () => this.#usedBytes(),
      limitBytes: () => Math.min(this.#init.quotaBytes, this.#space.limitBytes),
      blobs: this.#blobs,
      blobsMax: this.#init.blobsMax,
      victim: (keepMax) => this.#table.victim(keepMax),
      evict: (group) => this.#track(this.#evict(group)),
    });
  }

  /** Rejects with `version`, `locked` or a disk error, and then holds no lock and no file. */
  async start(): Promise<void> {
    assert(this.#state === 'stopped', `cannot start a block store that is ${this.#state}`);
    this.#state = 'starting';
    const { disk } = this.#components;
    try {
      await disk.makeFolder('');
      this.#lock = await disk.lock('');
      await checkVersion(this.#components);
      await disk.makeFolder(BLOBS_FOLDER);
      await this.#space.check();
      await this.#restore(await scanStore(this.#components, this.#init));
      this.#state = 'running';
      this.#evictor.start();
      this.#evictor.consider('plain');
    } catch (error) {
      await this.#leave();
      throw storeError('cannot start the block store', error);
    }
  }

  /** Closes and releases everything, then rejects with the first error of the last sync, if any. */
  stop(): Promise<void> {
    if (this.#state === 'running') this.#stopping = this.#stop();
    return this.#stopping;
  }

  has(digest: Digest, index: BlockIndex): boolean {
    return this.#state === 'running' && this.#blobs.get(digest)?.files.present.has(index) === true;
  }

  get(blob: BlobRef, index: BlockIndex): Promise<AttestedBlock | undefined> {
    return this.#operation('get', async () => {
      const entry = this.#blobs.get(blob.digest);
      if (entry === undefined || !entry.files.present.has(index)) {
        this.#metrics.blocks.inc({ event: 'miss' });
        return undefined;
      }
      checkSize(entry.files.blob, blob);
      const group = this.#table.hold(blob.digest, index);
      try {
        const read = this.#reads.run(() => this.#read(entry, index));
        if (read === undefined) throw busyError('read a block', `${READS_WAITING_MAX} reads wait`);
        const block = await read;
        if (block !== undefined) this.#noteUse(group);
        return block;
      } finally {
        this.#letGo(entry, group);
      }
    });
  }

  put(blob: BlobRef, index: BlockIndex, block: AttestedBlock): Promise<void> {
    return this.#operation('put', async () => {
      checkBlock(blob, index, block.payload.length);
      const entry = this.#blobs.get(blob.digest) ?? this.#begin(blob);
      checkSize(entry.files.blob, blob);
      const latest = entry.latest(index);
      if (latest?.kind === 'put') return latest.done;
      if (latest === undefined && entry.files.present.has(index)) return;
      return this.#write(entry, index, block);
    });
  }

  drop(digest: Digest, index: BlockIndex): Promise<void> {
    return this.#operation('drop', async () => {
      const entry = this.#blobs.get(digest);
      const latest = entry?.latest(index);
      if (entry === undefined) return;
      if (latest?.kind === 'drop') return latest.done;
      if (latest === undefined && !entry.files.present.has(index)) return;
      return this.#forgetBlock(entry, index);
    });
  }

  resize(blob: BlobRef): Promise<void> {
    return this.#operation('drop', async () => {
      const entry = this.#blobs.get(blob.digest);
      if (entry === undefined || entry.files.blob.sizeBytes === blob.sizeBytes) return;
      const { digest, sizeBytes } = entry.files.blob;
      const fields = { digest, sizeBytes: blob.sizeBytes, keptSizeBytes: sizeBytes };
      this.#components.logger.warn(fields, 'a blob was kept with a wrong size: it is dropped');
      const indices = new Set([...entry.files.indices(), ...entry.changing()]);
      await Promise.all([...indices].map((index) => this.#forgetBlock(entry, index)));
      // With the last block the folder goes; a put of the right size begins anew.
      await entry.removing;
    });
  }

  keepMatching(blob: BlobRef, matches: MatchesDigest): Promise<void> {
    return this.#operation('drop', async () => {
      const others = await findOthers(this.#components, blob, matches);
      for (const index of others) await this.drop(blob.digest, index);
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
      blockCount: this.#table.blockCount,
      sizeBytes: this.#table.sizeBytes,
      writeTrouble: this.#health.trouble,
    };
  }

  usage(): readonly BlobUsage[] {
    return this.#state === 'running' ? usageOf(this.#table, this.blobs()) : [];
  }

  pin(digest: Digest): Promise<void> {
    return this.#operation('pin', async () => {
      if (this.#table.pins.has(digest)) return;
      if (this.#table.pins.size >= PINS_MAX) throw tooManyPins(digest, PINS_MAX);
      this.#table.pin(digest);
      await this.#ledger.savePins();
    });
  }

  unpin(digest: Digest): Promise<void> {
    return this.#operation('pin', async () => {
      this.#table.unpin(digest);
      await this.#ledger.savePins();
    });
  }

  retain(digests: readonly Digest[]): void {
    for (const digest of digests) this.#table.retain(digest);
  }

  release(digests: readonly Digest[]): void {
    for (const digest of digests) this.#table.release(digest);
  }

  gc(options: { readonly targetBytes?: number } = {}): Promise<Evicted> {
    return this.#operation('evict', () => this.#evictor.gc(options.targetBytes));
  }

  async #restore(found: readonly FoundBlob[]): Promise<void> {
    const { pins, uses } = await this.#ledger.load();
    for (const digest of pins) this.#table.pin(digest);
    for (const { blob, present } of found) this.#adopt(blob, present);
    this.#table.restore(foundBlocks(found), { uses, nowMs: this.#components.clock.wallMs() });
    this.#showSize();
  }

  async #stop(): Promise<void> {
    this.#state = 'stopping';
    await this.#evictor.stop();
    // Work that ends may begin the removal of a group that it emptied.
    while (this.#underWay.size > 0) await Promise.allSettled(this.#underWay);
    this.#syncer.stop();
    this.#ledger.stop();
    try {
      await this.#syncer.flush();
    } catch (error) {
      throw storeError('cannot make all blocks durable', error);
    } finally {
      await this.#ledger.saveUses();
      await this.#leave();
    }
  }

  async #leave(): Promise<void> {
    await this.#files.closeAll();
    this.#blobs.clear();
    this.#table.clear();
    this.#showSize();
    await this.#lock?.release();
    this.#lock = undefined;
    this.#state = 'stopped';
  }

  /** Runs a call of the store, for which `stop()` waits. Counts its failure. */
  #operation<T>(operation: StoreOperation, action: () => Promise<T>): Promise<T> {
    return this.#track(this.#attempt(operation, action));
  }

  #track<T>(result: Promise<T>): Promise<T> {
    this.#underWay.add(result);
    const over = (): void => void this.#underWay.delete(result);
    result.then(over, over);
    return result;
  }

  async #attempt<T>(operation: StoreOperation, action: () => Promise<T>): Promise<T> {
    if (this.#state !== 'running') throw stoppedError();
    try {
      return await action();
    } catch (cause) {
      const error = storeError(`the block store cannot ${OPERATION_WORDS[operation]}`, cause);
      const code = error instanceof BlockStoreError ? error.code : 'io';
      this.#metrics.errors.inc({ operation, code });
      throw error;
    }
  }

  async #write(entry: BlobEntry, index: BlockIndex, block: AttestedBlock): Promise<void> {
    const { payload } = block;
    const lengthBytes = payload.length;
    try {
      this.#checkRoom(entry, lengthBytes);
    } catch (error) {
      this.#forgetIfEmpty(entry);
      throw error;
    }
    payload.retain();
    this.#queue(lengthBytes);
    try {
      await this.#change(entry, index, 'put', async () => {
        await entry.files.write(index, block);
        this.#syncer.touch(entry.files);
        this.#metrics.blocks.inc({ event: 'written' });
      });
      this.#health.succeeded();
    } catch (error) {
      this.#health.failed(error);
      throw error;
    } finally {
      payload.release();
      this.#queue(-lengthBytes);
    }
  }

  /** Runs the work after the block's change in flight, in turn with other writes. */
  #change(
    entry: BlobEntry,
    index: BlockIndex,
    kind: Change['kind'],
    work: () => Promise<void>,
  ): Promise<void> {
    const before = entry.latest(index)?.done;
    const group = this.#table.hold(entry.files.blob.digest, index);
    const run = async (): Promise<void> => {
      await before?.catch(() => {});
      try {
        const written = this.#writes.run(work);
        if (written === undefined) {
          throw busyError(`${kind} a block`, `${WRITES_WAITING_MAX} writes wait`);
        }
        await written;
        // A drop that arrived meanwhile wins.
        if (kind === 'put' && entry.latest(index) === change) {
          this.#setPresent(entry, index, group);
        }
      } finally {
        entry.end(index, change);
        this.#letGo(entry, group);
      }
    };
    const change: Change = { kind, done: Promise.resolve().then(run) };
    entry.begin(index, change);
    return change.done;
  }

  async #read(entry: BlobEntry, index: BlockIndex): Promise<AttestedBlock | undefined> {
    try {
      // Twice: a read of a block dropped and put again meanwhile may mix both.
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

  /** Forgets an unreadable block. A failure to erase it does no harm: every read checks. */
  #dropLost(entry: BlobEntry, index: BlockIndex, cause?: DiskError): void {
    const { digest } = entry.files.blob;
    const reason = cause === undefined ? 'its bytes are not the written ones' : errorText(cause);
    this.#components.logger.warn({ digest, index, reason }, 'a block in the store was lost');
    this.#metrics.blocks.inc({ event: 'damaged' });
    if (entry.latest(index)?.kind === 'drop') return;
    this.#operation('drop', () => this.#forgetBlock(entry, index)).catch(() => {});
  }

  #forgetBlock(entry: BlobEntry, index: BlockIndex): Promise<void> {
    const { blob, present } = entry.files;
    const group = this.#table.hold(blob.digest, index);
    if (present.delete(index)) {
      this.#table.removeBlock(group, blockLength(blob.sizeBytes, index));
      this.#showSize();
    }
    this.#metrics.blocks.inc({ event: 'dropped' });
    const dropped = this.#change(entry, index, 'drop', async () => {
      await entry.files.erase(index);
      this.#syncer.touch(entry.files);
    });
    // The change holds the group now.
    this.#table.letGo(group);
    return dropped;
  }

  #setPresent(entry: BlobEntry, index: BlockIndex, group: Group): void {
    const { blob, present } = entry.files;
    if (!present.add(index)) return;
    const lengthBytes = blockLength(blob.sizeBytes, index);
    this.#table.addBlock(group, lengthBytes, this.#components.clock.wallMs());
    this.#showSize();
  }

  #noteUse(group: Group): void {
    this.#table.use(group, this.#components.clock.wallMs());
    this.#ledger.touch();
  }

  /** Ends a use of a group; a group left empty frees its space. */
  #letGo(entry: BlobEntry, group: Group): void {
    if (!this.#table.letGo(group)) return;
    entry.removing = this.#track(this.#removeEmpty(entry, group));
  }

  async #removeEmpty(entry: BlobEntry, group: Group): Promise<void> {
    const whole = !this.#table.has(group.digest);
    entry.removals++;
    await entry.files.removeGroup(group.index, { erase: false, whole });
    entry.removals--;
    this.#forgetIfEmpty(entry);
  }

  /** Removes a group from memory, then from the disk. When that fails, restores it and rejects. */
  async #evict(group: Group): Promise<void> {
    const entry = defined(this.#blobs.get(group.digest), 'a group belongs to a blob');
    const { blob, present } = entry.files;
    const { sizeBytes } = group;
    const indices = entry.files.indicesOf(group.index);
    for (const index of indices) present.delete(index);
    this.#table.evict(group);
    this.#leavingBytes += sizeBytes;
    this.#showSize();
    const whole = !this.#table.has(blob.digest);
    const beforeMs = this.#components.clock.nowMs();
    entry.removals++;
    try {
      await entry.files.removeGroup(group.index, { erase: true, whole });
      this.#metrics.blocks.inc({ event: 'evicted' }, indices.length);
      this.#metrics.evictSeconds.observe({}, (this.#components.clock.nowMs() - beforeMs) / 1000);
    } catch (error) {
      for (const index of indices) {
        const held = this.#table.hold(blob.digest, index);
        this.#setPresent(entry, index, held);
        this.#table.letGo(held);
      }
      throw error;
    } finally {
      this.#leavingBytes -= sizeBytes;
      entry.removals--;
      this.#forgetIfEmpty(entry);
    }
  }

  #usedBytes(): number {
    return this.#table.sizeBytes + this.#queuedBytes + this.#leavingBytes;
  }

  #checkRoom(entry: BlobEntry, lengthBytes: number): void {
    const { queueBytesMax, freeBytesMin, quotaBytes } = this.#init;
    const { blob } = entry.files;
    const hasRoom = this.#space.hasRoom();
    this.#evictor.consider(this.#table.keepOf(blob.digest));
    if (!hasRoom) {
      throw new BlockStoreError(
        `the block store takes no blocks: less than ${freeBytesMin} bytes of the disk are free`,
        { code: 'no-space' },
      );
    }
    if (this.#queuedBytes + lengthBytes > queueBytesMax) {
      const limit = `${this.#queuedBytes} of ${queueBytesMax} bytes wait to be written`;
      throw busyError(`put ${lengthBytes} bytes`, limit);
    }
    if (this.#usedBytes() + lengthBytes > quotaBytes) throw quotaError(blob, quotaBytes);
  }

  /** A new entry for a blob without blocks. */
  #begin(blob: BlobRef): BlobEntry {
    const { blobsMax } = this.#init;
    if (this.#blobs.size < blobsMax) return this.#adopt(blob);
    this.#evictor.consider(this.#table.keepOf(blob.digest));
    throw tooManyBlobs(blob.digest, blobsMax);
  }

  #adopt(blob: BlobRef, found?: BitSet): BlobEntry {
    const init = found === undefined ? { blob } : { blob, found };
    const entry = new BlobEntry(new BlobFiles(this.#ofFiles, init));
    this.#blobs.set(blob.digest, entry);
    return entry;
  }

  /** Files left on disk are harmless: a later put removes them, or the next start does. */
  #forgetIfEmpty(entry: BlobEntry): void {
    const { blob } = entry.files;
    if (this.#table.has(blob.digest) || entry.removals > 0) return;
    if (this.#blobs.get(blob.digest) === entry) this.#blobs.delete(blob.digest);
  }

  #queue(bytes: number): void {
    this.#queuedBytes += bytes;
    this.#metrics.queuedBytes.set({}, this.#queuedBytes);
  }

  #showSize(): void {
    this.#metrics.present.set({}, this.#table.blockCount);
    this.#metrics.sizeBytes.set({}, this.#table.sizeBytes);
  }
}
