import { constants, fstatSync, openSync, readSync } from 'node:fs';
import type { Clock } from '../../runtime/clock.ts';
import { defined } from '../../util/assert.ts';
import { FILES_MAX, type SharedFiles } from './shared-files.ts';

/**
 * Age from which a file has a birth of its own, in milliseconds of the wall clock. File systems
 * take the time of a tick (1 to 10 ms), so that a file that is removed at once and the next one of
 * its inode may have been born at the same time.
 */
const BIRTH_MS = 100;

/** A file of the store, open or not, for as long as its user keeps this. */
export interface StoreFile {
  readonly path: string;
  fd: number;
  /** Where it was open last, or -1. */
  slot: number;
  /** Grows with every use of any file. */
  lastUse: number;
  /**
   * Names the file that was last open at the path: a new one there has another identity. So has a
   * file that was too young, or has no known birth, whenever it is opened.
   */
  identity: string;
}

/** A file that is opened at its first use. */
export function storeFile(path: string): StoreFile {
  return { path, fd: -1, slot: -1, lastUse: 0, identity: '' };
}

/**
 * The files of the store that one mount reads, opened as they are needed, at most as many as the
 * mount may hold: the one that was not used for longest is closed first. A file that cannot be
 * opened or read is as one that is not there. Call all methods while `SharedFiles` is locked.
 */
export class OpenFiles {
  readonly #clock: Pick<Clock, 'wallMs'>;
  readonly #shared: SharedFiles;
  /** By slot; a file whose slot another one has taken is closed. */
  readonly #owners: (StoreFile | undefined)[] = Array.from({ length: FILES_MAX });
  #uses = 0;
  /** Reads so far. */
  reads = 0;

  constructor(components: { clock: Pick<Clock, 'wallMs'>; shared: SharedFiles }) {
    this.#clock = components.clock;
    this.#shared = components.shared;
  }

  /** Makes sure that the file is open; false when it cannot be opened. */
  ensure(file: StoreFile): boolean {
    file.lastUse = ++this.#uses;
    return this.#isOpen(file) || this.#open(file);
  }

  /** Fills the target with the file's bytes from `offset` on; false when it lacks some. */
  read(file: StoreFile, target: Uint8Array, offset: number): boolean {
    if (!this.ensure(file)) return false;
    this.reads++;
    try {
      for (let done = 0; done < target.length; ) {
        const count = readSync(file.fd, target, done, target.length - done, offset + done);
        if (count === 0) return false;
        done += count;
      }
      return true;
    } catch {
      return false; // The disk is in trouble: the store finds out itself.
    }
  }

  close(file: StoreFile): void {
    if (this.#isOpen(file)) this.#shared.close(file.slot);
  }

  /** Closes the file if the store has removed it. */
  closeRemoved(file: StoreFile): void {
    if (this.#isOpen(file) && fstatSync(file.fd).nlink === 0) this.#shared.close(file.slot);
  }

  #isOpen(file: StoreFile): boolean {
    const { slot, fd } = file;
    return slot >= 0 && this.#owners[slot] === file && this.#shared.fdIn(slot) === fd;
  }

  #open(file: StoreFile): boolean {
    file.slot = -1;
    try {
      file.fd = openSync(file.path, constants.O_RDONLY | constants.O_NOFOLLOW);
    } catch {
      return false;
    }
    file.slot = this.#freeSlot();
    this.#shared.put(file.slot, file.fd);
    this.#owners[file.slot] = file;
    const { dev, ino, birthtimeMs } = fstatSync(file.fd);
    const isKnown = birthtimeMs > 0 && this.#clock.wallMs() - birthtimeMs > BIRTH_MS;
    file.identity = isKnown ? `${dev}:${ino}:${birthtimeMs}` : `use ${file.lastUse}`;
    return true;
  }

  /** A slot without a file; the file of the least recent use makes room. */
  #freeSlot(): number {
    const max = this.#shared.filesMax;
    let [free, oldest, oldestUse] = [-1, -1, Infinity];
    for (let slot = 0; slot < FILES_MAX; slot++) {
      if (this.#shared.fdIn(slot) < 0) {
        if (free < 0 && slot < max) free = slot;
        continue;
      }
      const { lastUse } = defined(this.#owners[slot], 'an open file has an owner');
      if (slot >= max)
        this.#shared.close(slot); // The mount has to do with fewer now.
      else if (lastUse < oldestUse) [oldest, oldestUse] = [slot, lastUse];
    }
    if (free >= 0) return free;
    this.#shared.close(oldest);
    return oldest;
  }
}
