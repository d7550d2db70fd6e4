import { DiskError, type Disk, type DiskFile } from '../runtime/disk.ts';
import { readWhole, replaceFile } from '../runtime/whole-file.ts';
import { assert } from '../util/assert.ts';
import { errorText } from '../util/errors.ts';
import { AppendData, endSectors, type DeadRange, type ReleaseRange } from './append-data.ts';
import { endOf, readHeaders, readLog, type IndexLog } from './append-log.ts';
import type { LayerWriter } from './layer-writer.ts';
import {
  encodeAppendHeader,
  LSMT_HEADER_BYTES,
  SECTOR_BYTES,
  SEGMENT_BYTES,
  type LsmtHeader,
} from './lsmt-header.ts';
import { encodeIndexLog, SEGMENT_COUNT_MAX, type IndexLimits } from './lsmt-index.ts';
import { ZERO_LAYER } from './segment-map.ts';
import type { WriteMap } from './write-map.ts';
import { continues, ZERO_MOFFSET, type WriteRow } from './write-map.ts';
import { WriteTail } from './write-tail.ts';

/** Names of the files in the layer's folder: the first two are those of overlaybd's snapshotter. */
export const APPEND_FILES = {
  data: 'writable_data',
  index: 'writable_index',
  tail: 'writable_tail',
} as const;

/**
 * Most ranges that a writable layer keeps apart: 24 MiB of memory at most. The stored index may
 * have four times as many entries, so that it is rewritten seldom.
 */
const ROWS_MAX = SEGMENT_COUNT_MAX / 4;

/** The index is rewritten when it has this many times the entries that it needs. */
const REWRITE_FACTOR = 3;

/** Default fewest entries for which the index is rewritten: 1 MiB. */
const REWRITE_MIN = 65_536;

/** Most ranges that wait for a flush; then a write flushes by itself. */
const PENDING_MAX = 16_384;

/** Most writes in the tail; then a write flushes by itself. */
const TAIL_MAX = 65_536;

/** Bytes that a commit reads at once. */
const PIECE_BYTES = 1024 * 1024;

/** The device below a writable layer. */
export interface LowerDisk {
  readonly sizeBytes: number;
  /** Fills the target from `offset` on; the caller stays in the device. */
  read(target: Uint8Array, offset: number): Promise<void>;
}

/** What a new writable layer says of itself. */
export interface AppendLayerInit {
  /** Bytes of the block device, a multiple of 512. */
  readonly virtualSizeBytes: number;
  /** Upper-case 8-4-4-4-12 hex digits. */
  readonly uuid: string;
  /** Of the layer below. */
  readonly parentUuid?: string;
}

interface Parts {
  readonly disk: Disk;
  /** Reads as zeros where absent, and after its end. */
  readonly lower?: LowerDisk | undefined;
  /** Fewest entries for which the index file is rewritten. */
  readonly rewriteMin?: number;
  /**
   * The boot of the host. With it, what was written before this process is killed is there in the
   * next one; without it, only what was flushed.
   */
  readonly boot?: string;
  /** For the data file of the layer. Without it, overwritten data stays there. */
  readonly release?: ReleaseRange;
}

/**
 * The writable top layer of a block device, in overlaybd's append mode: writes go to the end of a
 * data file, and the places of what was written to the end of an index file, where later entries
 * win.
 *
 * `flush()` syncs the data before it writes the entries that name them. So after a loss of power
 * the sound beginning of the index names durable data only: `open()` cuts what follows, and shows
 * the device as some moment at or after the last flush left it. A failed sync ends all writes: the
 * kernel may have dropped what it could not write.
 *
 * Overwritten data is released when the index that does without it is durable. The index file is
 * rewritten when most of its entries are dead.
 *
 * Life: `create()` once -> `open()` -> reads, writes, flushes, any number in flight -> `close()`.
 * One process at a time; the caller sees to that. When the process is killed and the layer has no
 * boot, what was written after the last flush goes, so that its device has to be mounted anew.
 */
export class AppendLayer {
  readonly sizeBytes: number;
  readonly uuid: string;
  readonly parentUuid: string;
  /** Most bytes of data on the disk; a write beyond them rejects with DiskError `no-space`. */
  limitBytes = Number.POSITIVE_INFINITY;
  readonly #disk: Disk;
  readonly #lower: LowerDisk | undefined;
  readonly #folder: string;
  readonly #rewriteMin: number;
  readonly #data: AppendData;
  #index: DiskFile;
  #tail: WriteTail | undefined;
  readonly #map: WriteMap;
  /** Entries in the index file. */
  #entryCount: number;
  /** Ranges in order of the writes that the index file lacks. */
  #pending: WriteRow[] = [];
  #flushing: Promise<void> = Promise.resolve();
  /** A flush that has not begun. */
  #nextFlush: Promise<void> | undefined;
  #failure: Error | undefined;

  private constructor(
    parts: Parts,
    init: { folder: string; header: LsmtHeader; data: AppendData; index: DiskFile; log: IndexLog },
  ) {
    this.#disk = parts.disk;
    this.#lower = parts.lower;
    this.#rewriteMin = parts.rewriteMin ?? REWRITE_MIN;
    this.#folder = init.folder;
    this.#data = init.data;
    this.#index = init.index;
    this.#map = init.log.map;
    this.#entryCount = init.log.entryCount;
    this.sizeBytes = init.header.virtualSizeBytes;
    this.uuid = init.header.uuid;
    this.parentUuid = init.header.parentUuid;
  }

  /**
   * Makes the files of an empty layer, durable once this resolves. The folder exists. A crash
   * leaves a layer that `open()` takes, or none. Rejects with DiskError, also when there is one.
   */
  static async create(disk: Disk, folder: string, init: AppendLayerInit): Promise<void> {
    const path = pathOf(folder, 'index');
    if ((await readWhole(disk, path, 1)) !== undefined) {
      throw new DiskError(`there is a writable layer at ${path}`, { code: 'exists', path });
    }
    for (const which of ['data', 'index'] as const) {
      const bytes = encodeAppendHeader(init, which);
      await replaceFile(disk, pathOf(folder, which), bytes, { sync: true });
    }
  }

  /**
   * Opens the layer in the folder, and cuts what a crash has left unfinished. Undefined when there
   * is none. Rejects with DiskError, or with ImageError when the files are damaged.
   */
  static async open(parts: Parts, folder: string): Promise<AppendLayer | undefined> {
    const { disk } = parts;
    const first = await readWhole(disk, pathOf(folder, 'index'), LSMT_HEADER_BYTES);
    if (first === undefined) return undefined;
    const data = await disk.open(pathOf(folder, 'data'), 'read').then(async (file) => {
      await file.close();
      return disk.open(pathOf(folder, 'data'), 'write');
    });
    const index = await disk.open(pathOf(folder, 'index'), 'write');
    try {
      const header = await readHeaders(data, first);
      const limits = {
        virtualSectors: header.virtualSizeBytes / SECTOR_BYTES,
        dataEndSectors: await endSectors(data),
      };
      const log = await readLog(index, limits);
      const late = await openTail(parts, folder, limits);
      const dataEnd = endOf(late?.rows ?? [], log.dataEnd);
      // The cut must be durable before anything is added, or entries behind it could come back.
      await index.truncate(LSMT_HEADER_BYTES + log.entryCount * SEGMENT_BYTES);
      await index.sync();
      await data.truncate(dataEnd * SECTOR_BYTES);
      const init = { path: pathOf(folder, 'data'), endSectors: dataEnd };
      const appended = new AppendData({ file: data, release: parts.release }, init);
      const layer = new AppendLayer(parts, { folder, header, data: appended, index, log });
      await layer.#takeTail(late);
      return layer;
    } catch (error) {
      await Promise.all([data.close(), index.close()]);
      throw error;
    }
  }

  /** Ranges that the layer covers. */
  get rangeCount(): number {
    return this.#map.count;
  }

  /** Bytes of data on the disk. */
  get usedBytes(): number {
    return this.#data.usedBytes;
  }

  /**
   * Fills the target with the device's bytes from `offset` on, which lie in the device. Rejects
   * with the errors of the disk and of the device below.
   */
  async read(target: Uint8Array, offset: number): Promise<void> {
    const end = offset + target.length;
    assert(offset >= 0 && end <= this.sizeBytes, `bytes ${offset} to ${end} lie in the device`);
    const reads: Promise<void>[] = [];
    let at = offset;
    const below = (to: number): void => {
      if (at < to) reads.push(this.#readLower(target.subarray(at - offset, to - offset), at));
    };
    const sectors = [Math.floor(offset / SECTOR_BYTES), Math.ceil(end / SECTOR_BYTES)] as const;
    this.#map.visit(...sectors, (row) => {
      const start = Math.max(offset, row.offset * SECTOR_BYTES);
      const stop = Math.min(end, (row.offset + row.length) * SECTOR_BYTES);
      below(start);
      at = stop;
      const part = target.subarray(start - offset, stop - offset);
      if (row.moffset === ZERO_MOFFSET) part.fill(0);
      else reads.push(this.#data.read(part, (row.moffset - row.offset) * SECTOR_BYTES + start));
    });
    below(end);
    await Promise.all(reads);
  }

  /**
   * Writes whole sectors. Once it resolves, reads show them; `flush()` makes them durable. Rejects
   * with DiskError; then the range reads as before. The order of writes to the same sector is that
   * in which they resolve.
   */
  async write(offset: number, bytes: Uint8Array): Promise<void> {
    this.#check(offset, bytes.length);
    if (bytes.length === 0) return;
    if (isZero(bytes)) return this.zero(offset, bytes.length);
    await this.#makeRoom(bytes.length);
    const moffset = await this.#data.append(bytes);
    const length = bytes.length / SECTOR_BYTES;
    try {
      await this.#add({ offset: offset / SECTOR_BYTES, length, moffset });
    } catch (error) {
      this.#data.dies({ moffset, length });
      throw error;
    }
    await this.#flushMany();
  }

  /** Has whole sectors read as zeros; otherwise as `write()`. */
  async zero(offset: number, length: number): Promise<void> {
    this.#check(offset, length);
    if (length === 0) return;
    const [first, count] = [offset / SECTOR_BYTES, length / SECTOR_BYTES];
    await this.#add({ offset: first, length: count, moffset: ZERO_MOFFSET });
    await this.#flushMany();
  }

  /**
   * Once it resolves, all writes that had resolved before the call survive a loss of power. Rejects
   * with DiskError.
   */
  flush(): Promise<void> {
    this.#nextFlush ??= this.#flushing.then(() => {
      this.#nextFlush = undefined;
      this.#flushing = this.#flushOnce();
      // Those who wait for this flush get its error, and later flushes go their own way.
      const result = this.#flushing;
      this.#flushing = result.catch(() => {});
      return result;
    });
    return this.#nextFlush;
  }

  /**
   * Writes what the layer has at this moment into a committed layer, in the order of the device.
   * Writes may go on. `writer` is new, and has the size of this device.
   */
  commit(writer: LayerWriter): Promise<void> {
    return this.#data.reading(() => this.#commit(writer));
  }

  async #commit(writer: LayerWriter): Promise<void> {
    const rows = this.#map.build();
    const piece = new Uint8Array(PIECE_BYTES);
    for (let row = 0; row < rows.count; row++) {
      const offset = (rows.offsets[row] ?? 0) * SECTOR_BYTES;
      const length = (rows.lengths[row] ?? 0) * SECTOR_BYTES;
      if (rows.layers[row] === ZERO_LAYER) {
        writer.zero(offset, length);
        continue;
      }
      const from = (rows.moffsets[row] ?? 0) * SECTOR_BYTES;
      for (let done = 0; done < length; done += PIECE_BYTES) {
        const part = piece.subarray(0, Math.min(PIECE_BYTES, length - done));
        await this.#data.read(part, from + done);
        await writer.write(offset + done, part);
      }
    }
  }

  /** Closes the files once nothing is in flight; does not flush. Later calls reject. */
  async close(): Promise<void> {
    this.#failure ??= new Error('the writable layer is closed');
    await (this.#nextFlush ?? this.#flushing).catch(() => {});
    await Promise.all([this.#data.close(), this.#tail?.close(), this.#index.close()]);
  }

  /** Takes over what an earlier process of this boot had written and not flushed. */
  async #takeTail(late: Awaited<ReturnType<typeof openTail>>): Promise<void> {
    for (const row of late?.rows ?? []) this.#note(row);
    // What was noted is dead in the index that is flushed; the rest never was in one.
    this.#data.takeDead();
    this.#tail = late?.tail;
    await this.flush();
    await this.#tail?.restart(() => this.#pending);
    this.#data.release(this.#gaps());
  }

  /** What no row names of the data file. */
  #gaps(): readonly DeadRange[] {
    const rows = this.#rows().filter(({ moffset }) => moffset !== ZERO_MOFFSET);
    let end = LSMT_HEADER_BYTES / SECTOR_BYTES;
    const gaps: DeadRange[] = [];
    for (const { moffset, length } of rows.sort((a, b) => a.moffset - b.moffset)) {
      if (moffset > end) gaps.push({ moffset: end, length: moffset - end });
      end = moffset + length;
    }
    gaps.push({ moffset: end, length: this.#data.endSectors - end });
    return gaps;
  }

  /** Rejects with DiskError `no-space` when the layer may not have that many bytes more. */
  async #makeRoom(length: number): Promise<void> {
    const isFull = (): boolean => this.#data.usedBytes + length > this.limitBytes;
    if (!isFull()) return;
    await this.flush();
    await this.#data.released();
    if (isFull()) throw this.#full(`it has ${this.limitBytes} bytes of data, its limit`);
  }

  async #add(row: WriteRow): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#tail === undefined) this.#note(row);
    else await this.#tail.add(row, () => this.#note(row));
  }

  async #flushMany(): Promise<void> {
    const isMany = this.#pending.length >= PENDING_MAX || (this.#tail?.count ?? 0) >= TAIL_MAX;
    if (isMany) await this.flush();
  }

  #check(offset: number, length: number): void {
    if (this.#failure !== undefined) throw this.#failure;
    assert(offset % SECTOR_BYTES === 0 && length % SECTOR_BYTES === 0, 'writes are whole sectors');
    const end = offset + length;
    assert(offset >= 0 && end <= this.sizeBytes, `bytes ${offset} to ${end} lie in the device`);
    if (this.#map.count >= ROWS_MAX) throw this.#full(`it has ${ROWS_MAX} separate ranges`);
  }

  #full(why: string): DiskError {
    const path = pathOf(this.#folder, 'index');
    return new DiskError(`the writable layer is full: ${why}`, { code: 'no-space', path });
  }

  #note(row: WriteRow): void {
    this.#map.visit(row.offset, row.offset + row.length, ({ moffset, length }) => {
      if (moffset !== ZERO_MOFFSET) this.#data.dies({ moffset, length });
    });
    this.#map.put(row);
    const last = this.#pending.at(-1);
    if (last === undefined || !continues(last, row)) this.#pending.push(row);
    else this.#pending[this.#pending.length - 1] = { ...last, length: last.length + row.length };
  }

  async #flushOnce(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    const rows = this.#pending;
    if (rows.length === 0) return;
    const worthwhile = Math.max(this.#rewriteMin, REWRITE_FACTOR * this.#map.count);
    const live = this.#entryCount > worthwhile ? this.#rows() : undefined;
    this.#pending = [];
    const dead = this.#data.takeDead();
    try {
      await this.#sync(this.#data);
      if (live === undefined) await this.#append(rows);
      else await this.#rewrite(live);
    } catch (error) {
      this.#pending = rows.concat(this.#pending);
      this.#data.keep(dead);
      throw error;
    }
    // When that fails, the tail has entries that change nothing.
    await this.#tail?.restart(() => this.#pending).catch(() => {});
    this.#data.release(dead);
  }

  async #append(rows: readonly WriteRow[]): Promise<void> {
    const entries = encodeIndexLog(rows);
    await this.#index.write(entries, LSMT_HEADER_BYTES + this.#entryCount * SEGMENT_BYTES);
    await this.#sync(this.#index);
    this.#entryCount += entries.length / SEGMENT_BYTES;
  }

  /** Puts an index with these rows alone in the place of the old one. */
  async #rewrite(rows: readonly WriteRow[]): Promise<void> {
    const path = pathOf(this.#folder, 'index');
    const { uuid, parentUuid, sizeBytes } = this;
    const header = encodeAppendHeader({ uuid, parentUuid, virtualSizeBytes: sizeBytes }, 'index');
    const entries = encodeIndexLog(rows);
    const bytes = new Uint8Array(header.length + entries.length);
    bytes.set(header);
    bytes.set(entries, header.length);
    try {
      await replaceFile(this.#disk, path, bytes, { sync: true });
      const old = this.#index;
      this.#index = await this.#disk.open(path, 'write');
      this.#entryCount = entries.length / SEGMENT_BYTES;
      await old.close();
    } catch (error) {
      // The name may be that of either file: nothing may be added to one of them.
      this.#failure = error instanceof Error ? error : new Error(errorText(error));
      throw error;
    }
  }

  #rows(): WriteRow[] {
    const rows: WriteRow[] = [];
    this.#map.visit(0, this.sizeBytes / SECTOR_BYTES, (row) => rows.push(row));
    return rows;
  }

  async #sync(file: Pick<DiskFile, 'sync'>): Promise<void> {
    try {
      await file.sync();
    } catch (error) {
      this.#failure = error instanceof Error ? error : new Error(errorText(error));
      throw error;
    }
  }

  async #readLower(target: Uint8Array, offset: number): Promise<void> {
    const size = this.#lower?.sizeBytes ?? 0;
    const length = Math.max(0, Math.min(target.length, size - offset));
    target.fill(0, length);
    if (length > 0) await this.#lower?.read(target.subarray(0, length), offset);
  }
}

function pathOf(folder: string, which: keyof typeof APPEND_FILES): string {
  return folder === '' ? APPEND_FILES[which] : `${folder}/${APPEND_FILES[which]}`;
}

async function openTail({ disk, boot }: Parts, folder: string, limits: IndexLimits) {
  if (boot === undefined) return undefined;
  return WriteTail.open(disk, { path: pathOf(folder, 'tail'), boot }, limits);
}

function isZero(bytes: Uint8Array): boolean {
  for (const byte of bytes) if (byte !== 0) return false;
  return true;
}
