import { DiskError, type Disk, type DiskFile } from '../runtime/disk.ts';
import { readFully, readWhole, replaceFile } from '../runtime/whole-file.ts';
import { assert } from '../util/assert.ts';
import { errorText } from '../util/errors.ts';
import { damaged, outOfRange, truncated } from './errors.ts';
import type { LayerWriter } from './layer-writer.ts';
import {
  encodeAppendHeader,
  LSMT_HEADER_BYTES,
  parseLsmtHeader,
  SECTOR_BYTES,
  SEGMENT_BYTES,
  type LsmtHeader,
} from './lsmt-header.ts';
import { encodeIndexLog, indexLog, SEGMENT_COUNT_MAX, type IndexLimits } from './lsmt-index.ts';
import { ZERO_LAYER } from './segment-map.ts';
import { continues, WriteMap, ZERO_MOFFSET, type WriteRow } from './write-map.ts';

/** Names of the files in the layer's folder, those of overlaybd's snapshotter. */
export const APPEND_FILES = { data: 'writable_data', index: 'writable_index' } as const;

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

/** Bytes that opening and committing read at once. */
const PIECE_BYTES = 1024 * 1024;

/** End of what a map can name, in sectors. */
const DATA_SECTORS_MAX = 2 ** 32;

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
 * Overwritten data stays in the data file until a commit leaves it behind. The index file is
 * rewritten when most of its entries are dead.
 *
 * Life: `create()` once -> `open()` -> reads, writes and flushes, any number in flight -> `close()`
 * when none is. One process at a time; the caller sees to that. A process that is killed takes with
 * it what it wrote after the last flush, so that its device has to be mounted anew.
 */
export class AppendLayer {
  readonly sizeBytes: number;
  readonly uuid: string;
  readonly parentUuid: string;
  readonly #disk: Disk;
  readonly #lower: LowerDisk | undefined;
  readonly #folder: string;
  readonly #rewriteMin: number;
  readonly #data: DiskFile;
  #index: DiskFile;
  readonly #map: WriteMap;
  /** Where the next data goes, in sectors. */
  #dataEnd: number;
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
    init: { folder: string; header: LsmtHeader; data: DiskFile; index: DiskFile; log: IndexLog },
  ) {
    this.#disk = parts.disk;
    this.#lower = parts.lower;
    this.#rewriteMin = parts.rewriteMin ?? REWRITE_MIN;
    this.#folder = init.folder;
    this.#data = init.data;
    this.#index = init.index;
    this.#map = init.log.map;
    this.#dataEnd = init.log.dataEnd;
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
      const log = await readLog(index, {
        virtualSectors: header.virtualSizeBytes / SECTOR_BYTES,
        dataEndSectors: await endSectors(data),
      });
      // The cut must be durable before anything is added, or entries behind it could come back.
      await index.truncate(LSMT_HEADER_BYTES + log.entryCount * SEGMENT_BYTES);
      await index.sync();
      await data.truncate(log.dataEnd * SECTOR_BYTES);
      return new AppendLayer(parts, { folder, header, data, index, log });
    } catch (error) {
      await Promise.all([data.close(), index.close()]);
      throw error;
    }
  }

  /** Ranges that the layer covers. */
  get rangeCount(): number {
    return this.#map.count;
  }

  /** Bytes of the data file, dead ones included. */
  get dataBytes(): number {
    return this.#dataEnd * SECTOR_BYTES;
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
      else reads.push(this.#readData(part, (row.moffset - row.offset) * SECTOR_BYTES + start));
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
    const moffset = this.#dataEnd;
    const length = bytes.length / SECTOR_BYTES;
    if (moffset + length > DATA_SECTORS_MAX) throw this.#full('its data file has 2 TiB');
    this.#dataEnd += length;
    await this.#data.write(bytes, moffset * SECTOR_BYTES);
    this.#note({ offset: offset / SECTOR_BYTES, length, moffset });
    if (this.#pending.length >= PENDING_MAX) await this.flush();
  }

  /** Has whole sectors read as zeros; otherwise as `write()`. */
  async zero(offset: number, length: number): Promise<void> {
    this.#check(offset, length);
    if (length === 0) return;
    const [first, count] = [offset / SECTOR_BYTES, length / SECTOR_BYTES];
    this.#note({ offset: first, length: count, moffset: ZERO_MOFFSET });
    if (this.#pending.length >= PENDING_MAX) await this.flush();
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
  async commit(writer: LayerWriter): Promise<void> {
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
        await this.#readData(part, from + done);
        await writer.write(offset + done, part);
      }
    }
  }

  /** Closes the files; does not flush. */
  async close(): Promise<void> {
    await (this.#nextFlush ?? this.#flushing).catch(() => {});
    this.#failure ??= new Error('the writable layer is closed');
    await Promise.all([this.#data.close(), this.#index.close()]);
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
    try {
      await this.#sync(this.#data);
      if (live === undefined) await this.#append(rows);
      else await this.#rewrite(live);
    } catch (error) {
      this.#pending = rows.concat(this.#pending);
      throw error;
    }
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

  async #sync(file: DiskFile): Promise<void> {
    try {
      await file.sync();
    } catch (error) {
      this.#failure = error instanceof Error ? error : new Error(errorText(error));
      throw error;
    }
  }

  async #readData(target: Uint8Array, offset: number): Promise<void> {
    const count = await readFully(this.#data, target, offset);
    if (count < target.length) throw truncated('data file of the writable layer', 'it was cut');
  }

  async #readLower(target: Uint8Array, offset: number): Promise<void> {
    const size = this.#lower?.sizeBytes ?? 0;
    const length = Math.max(0, Math.min(target.length, size - offset));
    target.fill(0, length);
    if (length > 0) await this.#lower?.read(target.subarray(0, length), offset);
  }
}

/** What the sound part of an index file says. */
interface IndexLog {
  readonly map: WriteMap;
  readonly entryCount: number;
  /** First sector after all data that entries name. */
  readonly dataEnd: number;
}

function pathOf(folder: string, which: keyof typeof APPEND_FILES): string {
  return folder === '' ? APPEND_FILES[which] : `${folder}/${APPEND_FILES[which]}`;
}

/** Checks both headers; gives that of the data. */
async function readHeaders(data: DiskFile, first: Uint8Array): Promise<LsmtHeader> {
  const bytes = new Uint8Array(LSMT_HEADER_BYTES);
  if ((await readFully(data, bytes, 0)) < bytes.length) {
    throw truncated('data file of the writable layer', 'its header is missing');
  }
  const header = parseLsmtHeader(bytes, 'LSMT header');
  const index = parseLsmtHeader(first, 'LSMT index header');
  if (!header.isHeader || !header.isData || header.isSealed || header.isSparse) {
    throw damaged('LSMT header', 'its flags are not those of a writable layer in append mode');
  }
  if (index.uuid !== header.uuid || index.isData) {
    throw damaged('LSMT index header', 'it does not belong to the data file');
  }
  if (index.indexOffset !== LSMT_HEADER_BYTES) {
    throw outOfRange('LSMT index_offset', index.indexOffset, `it must be ${LSMT_HEADER_BYTES}`);
  }
  return header;
}

/**
 * Reads entries up to the first that is missing: all zeros, where a sector did not reach the disk.
 * The entries after it are younger.
 */
async function readLog(index: DiskFile, limits: IndexLimits): Promise<IndexLog> {
  const map = new WriteMap();
  let entryCount = 0;
  let dataEnd = LSMT_HEADER_BYTES / SECTOR_BYTES;
  for (let isWhole = true; isWhole; ) {
    const bytes = new Uint8Array(PIECE_BYTES);
    const count = await readFully(index, bytes, LSMT_HEADER_BYTES + entryCount * SEGMENT_BYTES);
    const sound = soundBytes(bytes.subarray(0, count));
    isWhole = sound === PIECE_BYTES;
    entryCount += sound / SEGMENT_BYTES;
    if (entryCount > SEGMENT_COUNT_MAX) {
      throw outOfRange('LSMT index', entryCount, `at most ${SEGMENT_COUNT_MAX} entries are read`);
    }
    for (const row of indexLog(bytes.subarray(0, sound), limits)) {
      map.put(row);
      if (row.moffset !== ZERO_MOFFSET) dataEnd = Math.max(dataEnd, row.moffset + row.length);
    }
  }
  return { map, entryCount, dataEnd };
}

function soundBytes(bytes: Uint8Array): number {
  let at = 0;
  while (at + SEGMENT_BYTES <= bytes.length) {
    if (bytes.subarray(at, at + SEGMENT_BYTES).every((byte) => byte === 0)) break;
    at += SEGMENT_BYTES;
  }
  return at;
}

/** Whole sectors in a file. */
async function endSectors(file: DiskFile): Promise<number> {
  // Files have no size to ask for: the last sector is found by halves.
  const probe = new Uint8Array(SECTOR_BYTES);
  let [low, high] = [0, DATA_SECTORS_MAX];
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    const isThere = (await readFully(file, probe, middle * SECTOR_BYTES)) === SECTOR_BYTES;
    if (isThere) low = middle + 1;
    else high = middle;
  }
  return low;
}
