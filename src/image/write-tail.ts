import type { Disk, DiskFile } from '../runtime/disk.ts';
import { readWhole } from '../runtime/whole-file.ts';
import { SECTOR_BYTES, SEGMENT_BYTES } from './lsmt-header.ts';
import { encodeIndexLog, indexLog, soundBytes, type IndexLimits } from './lsmt-index.ts';
import type { WriteRow } from './write-map.ts';

/** The file begins with the name of the boot, filled up with zeros. */
const HEADER_BYTES = SECTOR_BYTES;

/** Most bytes that are read: far more than a layer lets wait for a flush. */
const FILE_BYTES_MAX = 64 * 2 ** 20;

interface Waiting {
  readonly row: WriteRow;
  readonly onAdded: () => void;
  readonly settle: PromiseWithResolvers<void>;
}

/**
 * What the index of a writable layer lacks of the writes that were answered, for the next process
 * when this one is killed. The file is never synced: a killed process leaves it in the memory of
 * the kernel, and after a loss of power the boot is another one, and the file does not count.
 */
export class WriteTail {
  readonly #disk: Disk;
  readonly #path: string;
  readonly #header = new Uint8Array(HEADER_BYTES);
  #file: DiskFile;
  #end = HEADER_BYTES;
  #waiting: Waiting[] = [];
  #running: Promise<void> = Promise.resolve();
  #isRunning = false;

  private constructor(disk: Disk, init: { path: string; boot: string; file: DiskFile }) {
    this.#disk = disk;
    this.#path = init.path;
    this.#file = init.file;
    this.#header.set(new TextEncoder().encode(init.boot).subarray(0, HEADER_BYTES));
  }

  /**
   * Opens it, and gives the writes of an earlier process of this boot, in order. `restart()` comes
   * first, once they are in the index. Rejects with DiskError, or ImageError.
   */
  static async open(
    disk: Disk,
    init: { path: string; boot: string },
    limits: IndexLimits,
  ): Promise<{ tail: WriteTail; rows: readonly WriteRow[] }> {
    const bytes = await readWhole(disk, init.path, FILE_BYTES_MAX);
    const file = await disk.open(init.path, 'write');
    const tail = new WriteTail(disk, { ...init, file });
    const isOurs = tail.#header.every((byte, i) => bytes?.[i] === byte);
    const entries = isOurs && bytes !== undefined ? bytes.subarray(HEADER_BYTES) : undefined;
    const sound = entries?.subarray(0, soundBytes(entries)) ?? new Uint8Array();
    return { tail, rows: [...indexLog(sound, limits)] };
  }

  /** Entries since the last restart. */
  get count(): number {
    return (this.#end - HEADER_BYTES) / SEGMENT_BYTES;
  }

  /**
   * Adds a write. `onAdded` runs as soon as it survives this process, in the order of the calls;
   * then this resolves. Rejects with DiskError.
   */
  add(row: WriteRow, onAdded: () => void): Promise<void> {
    const settle = Promise.withResolvers<void>();
    this.#waiting.push({ row, onAdded, settle });
    if (!this.#isRunning) this.#running = this.#running.then(() => this.#addAll());
    this.#isRunning = true;
    return settle.promise;
  }

  /**
   * The index has everything that was added, but for these rows. Rejects with DiskError; then the
   * file stays as it is, and entries that the index has too change nothing.
   */
  restart(rows: () => readonly WriteRow[]): Promise<void> {
    const restarted = this.#running.then(() => this.#restart(rows()));
    this.#running = restarted.catch(() => {});
    return restarted;
  }

  /** Waits for what is in flight. Nothing is added any more. */
  async close(): Promise<void> {
    await this.#running;
    await this.#file.close();
  }

  /** Never rejects. */
  async #addAll(): Promise<void> {
    while (this.#waiting.length > 0) {
      const waiting = this.#waiting;
      this.#waiting = [];
      const entries = encodeIndexLog(waiting.map(({ row }) => row));
      try {
        await this.#file.write(entries, this.#end);
        this.#end += entries.length;
        for (const { onAdded, settle } of waiting) {
          onAdded();
          settle.resolve();
        }
      } catch (error) {
        for (const { settle } of waiting) settle.reject(error);
      }
    }
    this.#isRunning = false;
  }

  async #restart(rows: readonly WriteRow[]): Promise<void> {
    const entries = encodeIndexLog(rows);
    const bytes = new Uint8Array(HEADER_BYTES + entries.length);
    bytes.set(this.#header);
    bytes.set(entries, HEADER_BYTES);
    // As a whole: a mixture of old entries and new ones would name the wrong data.
    const temporary = `${this.#path}.new`;
    const next = await this.#disk.open(temporary, 'write');
    try {
      await next.truncate(0);
      await next.write(bytes, 0);
      await this.#disk.rename(temporary, this.#path);
    } catch (error) {
      await next.close();
      throw error;
    }
    const old = this.#file;
    this.#file = next;
    this.#end = bytes.length;
    await old.close().catch(() => {});
  }
}
