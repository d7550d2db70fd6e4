import { closeSync, fstatSync } from 'node:fs';
import { assert } from '../../util/assert.ts';

/** Most files of the store that one mount holds open: those of 16 GiB of layers. */
export const FILES_MAX = 1024;

/**
 * Words of the shared memory: who works with the files; how many files the mount may hold; how many
 * bytes of blocks it may hold; then a word for each open file: its descriptor plus one, or 0.
 */
const LOCK = 0;
const FILES = 1;
const MEMORY = 2;
const SLOTS_AT = 16;

const FREE = 0;
const READING = 1;
const SWEEPING = 2;

/** Longest sleep of the reading thread before it looks at the lock again, in milliseconds. */
const LOOK_MS = 100;

/**
 * The open files of a mount and what it may hold, in memory that two threads share. The thread that
 * reads opens the files and uses them between `lock()` and `unlock()`. It may then sleep for days
 * in a read of /dev/fuse, so the other thread closes files that the store has removed meanwhile:
 * their space is free only then. That thread never waits: it leaves out a mount that is reading.
 */
export class SharedFiles {
  /** Bytes of the shared memory. */
  static readonly sizeBytes = (SLOTS_AT + FILES_MAX) * 4;
  readonly #words: Int32Array;

  constructor(shared: SharedArrayBuffer) {
    assert(shared.byteLength === SharedFiles.sizeBytes, 'the memory has a word for each file');
    this.#words = new Int32Array(shared);
  }

  /** How many files the mount may hold open. */
  get filesMax(): number {
    return Atomics.load(this.#words, FILES);
  }

  /** How many bytes of blocks the mount may hold in memory. */
  get memoryBytesMax(): number {
    return Atomics.load(this.#words, MEMORY);
  }

  /** Other thread: changes the bounds; the reading thread comes down to them as it goes on. */
  setBounds(bounds: { filesMax: number; memoryBytesMax: number }): void {
    Atomics.store(this.#words, FILES, Math.min(FILES_MAX, bounds.filesMax));
    Atomics.store(this.#words, MEMORY, bounds.memoryBytesMax);
  }

  /** Reading thread: keeps its files open until `unlock()`. */
  lock(): void {
    while (Atomics.compareExchange(this.#words, LOCK, FREE, READING) !== FREE) {
      Atomics.wait(this.#words, LOCK, SWEEPING, LOOK_MS);
    }
  }

  unlock(): void {
    Atomics.store(this.#words, LOCK, FREE);
  }

  /** Reading thread, locked: the descriptor in a slot, or -1. */
  fdIn(slot: number): number {
    return (this.#words[SLOTS_AT + slot] ?? 0) - 1;
  }

  /** Reading thread, locked: notes an open file in a free slot. */
  put(slot: number, fd: number): void {
    this.#words[SLOTS_AT + slot] = fd + 1;
  }

  /** Reading thread, locked: closes the file in a slot, if there is one. */
  close(slot: number): void {
    const fd = this.fdIn(slot);
    if (fd < 0) return;
    this.#words[SLOTS_AT + slot] = 0;
    closeSync(fd);
  }

  /** Other thread: closes the files that were removed, unless the reading thread is at work. */
  sweep(): void {
    if (Atomics.compareExchange(this.#words, LOCK, FREE, SWEEPING) !== FREE) return;
    try {
      this.#closeIf((fd) => fstatSync(fd).nlink === 0);
    } finally {
      Atomics.store(this.#words, LOCK, FREE);
      Atomics.notify(this.#words, LOCK);
    }
  }

  /** Closes all files, once the reading thread has ended. */
  closeAll(): void {
    this.#closeIf(() => true);
  }

  #closeIf(isToClose: (fd: number) => boolean): void {
    for (let slot = 0; slot < FILES_MAX; slot++) {
      const fd = this.fdIn(slot);
      if (fd >= 0 && isToClose(fd)) this.close(slot);
    }
  }
}
