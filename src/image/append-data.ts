import { DiskError, type DiskFile } from '../runtime/disk.ts';
import { readFully } from '../runtime/whole-file.ts';
import { assert } from '../util/assert.ts';
import { truncated } from './errors.ts';
import { LSMT_HEADER_BYTES, SECTOR_BYTES } from './lsmt-header.ts';

/** End of what a map can name, in sectors. */
const DATA_SECTORS_MAX = 2 ** 32;

/** Sectors of the data file that nothing names any more. */
export interface DeadRange {
  readonly moffset: number;
  readonly length: number;
}

/**
 * Gives the space of a range of the data file, in bytes, back to the disk: it reads as zeros from
 * then on, and the file keeps its size. False when the file system cannot.
 */
export type ReleaseRange = (offset: number, length: number) => Promise<boolean>;

/**
 * The data file of a writable layer. Data goes to its end; what is dead is released once the index
 * that does without it is durable, and no read of it is in flight.
 */
export class AppendData {
  readonly #file: DiskFile;
  readonly #path: string;
  readonly #release: ReleaseRange | undefined;
  /** Reads and writes in flight. */
  readonly #running = new Set<Promise<unknown>>();
  #end: number;
  #freed = 0;
  #dead: DeadRange[] = [];
  #readers = 0;
  #releasing: Promise<void> = Promise.resolve();
  #isClosed = false;

  /** `endSectors`: where the next data goes. */
  constructor(
    parts: { file: DiskFile; release: ReleaseRange | undefined },
    init: { path: string; endSectors: number },
  ) {
    this.#file = parts.file;
    this.#release = parts.release;
    this.#path = init.path;
    this.#end = init.endSectors;
  }

  /** Where the next data goes. */
  get endSectors(): number {
    return this.#end;
  }

  /** Bytes of data on the disk, dead ones that are not released included. */
  get usedBytes(): number {
    return (this.#end - this.#freed) * SECTOR_BYTES - LSMT_HEADER_BYTES;
  }

  /** Adds whole sectors, and gives the first one. What a rejected call has written is dead. */
  async append(bytes: Uint8Array): Promise<number> {
    const moffset = this.#end;
    const length = bytes.length / SECTOR_BYTES;
    if (moffset + length > DATA_SECTORS_MAX) {
      const what = 'the writable layer is full: its data file has 2 TiB';
      throw new DiskError(what, { code: 'no-space', path: this.#path });
    }
    this.#end += length;
    try {
      await this.#run(() => this.#file.write(bytes, moffset * SECTOR_BYTES));
      return moffset;
    } catch (error) {
      this.dies({ moffset, length });
      throw error;
    }
  }

  async read(target: Uint8Array, offset: number): Promise<void> {
    const count = await this.#run(() => readFully(this.#file, target, offset));
    if (count < target.length) throw truncated('data file of the writable layer', 'it was cut');
  }

  sync(): Promise<void> {
    return this.#run(() => this.#file.sync());
  }

  /** The next durable index does not name the range. */
  dies(range: DeadRange): void {
    if (this.#release === undefined) return;
    const last = this.#dead.at(-1);
    if (last === undefined || last.moffset + last.length !== range.moffset) this.#dead.push(range);
    else this.#dead[this.#dead.length - 1] = { ...last, length: last.length + range.length };
  }

  /** What the index that is about to be written does without: for `release()`, or `keep()`. */
  takeDead(): readonly DeadRange[] {
    const dead = this.#dead;
    this.#dead = [];
    return dead;
  }

  /** That index was not written. */
  keep(dead: readonly DeadRange[]): void {
    this.#dead = [...dead, ...this.#dead];
  }

  /** The durable index does without these. Goes on in the background. */
  release(dead: readonly DeadRange[]): void {
    if (dead.length === 0) return;
    if (this.#readers > 0) this.keep(dead);
    else this.#releasing = this.#releasing.then(() => this.#releaseAll(dead));
  }

  /** Resolves when what is durably dead is released. */
  released(): Promise<void> {
    return this.#releasing;
  }

  /** Runs work that reads what may have died since it began. */
  async reading<T>(work: () => Promise<T>): Promise<T> {
    this.#readers++;
    try {
      return await work();
    } finally {
      this.#readers--;
    }
  }

  /** Waits for what is in flight; later calls reject. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#releasing;
    await Promise.allSettled(this.#running);
    await this.#file.close();
  }

  async #run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#isClosed) throw new Error('the writable layer is closed');
    const running = work();
    this.#running.add(running);
    try {
      return await running;
    } finally {
      this.#running.delete(running);
    }
  }

  /** Never rejects. */
  async #releaseAll(dead: readonly DeadRange[]): Promise<void> {
    // A read that began before may be of a dead range.
    await Promise.allSettled(this.#running);
    for (const { moffset, length } of dead) {
      if (length === 0) continue;
      if (this.#isClosed || this.#release === undefined) return;
      assert(moffset * SECTOR_BYTES >= LSMT_HEADER_BYTES, 'the header lives');
      const isFree = await this.#release(moffset * SECTOR_BYTES, length * SECTOR_BYTES).catch(
        () => false,
      );
      if (!isFree) return; // It counts as used.
      this.#freed += length;
    }
  }
}

/** Whole sectors in a file. */
export async function endSectors(file: DiskFile): Promise<number> {
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
