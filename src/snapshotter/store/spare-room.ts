import { randomBytes } from 'node:crypto';
import { closeSync, fstatSync, openSync, rmSync, writeSync } from 'node:fs';

/** Enough for the journal of several removals. */
const SPARE_BYTES = 256 * 1024;

/**
 * A file that holds a little room on the disk of a database. Given up when the disk is full, it
 * lets records be removed: that is what frees the disk.
 */
export class SpareRoom {
  readonly #path: string;
  #isWhole = false;

  constructor(init: { path: string }) {
    this.#path = init.path;
  }

  /** Takes what is missing of the room, as far as the disk has it. Never throws. */
  keep(): void {
    if (this.#isWhole) return;
    try {
      const file = openSync(this.#path, 'a', 0o600);
      try {
        const missing = SPARE_BYTES - fstatSync(file).size;
        // Random: a file system that compresses would give no room for zeros.
        if (missing > 0) writeSync(file, randomBytes(missing));
        this.#isWhole = fstatSync(file).size >= SPARE_BYTES;
      } finally {
        closeSync(file);
      }
    } catch {
      // The disk is full: at a later write, then.
    }
  }

  giveUp(): void {
    this.#isWhole = false;
    rmSync(this.#path, { force: true });
  }
}
