import { BLOCK_BYTES, isZeroBlock } from './block-file.ts';
import type { Ext4 } from './ext4.ts';

/** Bytes gathered before they are written; a multiple of the block size. */
const WINDOW_BYTES = 1024 * 1024;

/**
 * Writes the content of one file from pieces in ascending order. Blocks of zeros become holes.
 * Life: `write()` any number of times, then `finish()` once. Throws ConvertError.
 */
export class ContentWriter {
  readonly #fs: Ext4;
  readonly #inode: number;
  readonly #window: Buffer;
  #windowStart = 0;
  /** End of the bytes in the window; 0 when it is empty. */
  #fill = 0;

  /** `window`: memory for the pieces, shared by files that are written one after the other. */
  constructor(fs: Ext4, inode: number, window: Buffer) {
    this.#fs = fs;
    this.#inode = inode;
    this.#window = window;
  }

  /** Memory for `ContentWriter`s. */
  static makeWindow(): Buffer {
    return Buffer.alloc(WINDOW_BYTES);
  }

  /** The file's bytes from `offset` on, which is not below the end of the last piece. */
  write(offset: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const at = offset + done;
      if (at >= this.#windowStart + WINDOW_BYTES) {
        this.#flush();
        this.#windowStart = at - (at % WINDOW_BYTES);
      }
      const from = at - this.#windowStart;
      const count = Math.min(WINDOW_BYTES - from, bytes.length - done);
      this.#window.fill(0, this.#fill, Math.max(this.#fill, from));
      this.#window.set(bytes.subarray(done, done + count), from);
      this.#fill = from + count;
      done += count;
    }
  }

  finish(): void {
    this.#flush();
  }

  #flush(): void {
    const end = Math.ceil(this.#fill / BLOCK_BYTES) * BLOCK_BYTES;
    this.#window.fill(0, this.#fill, end);
    this.#fill = 0;
    for (let from = 0; from < end; from += BLOCK_BYTES) {
      if (isZeroBlock(this.#window, from)) continue;
      let to = from + BLOCK_BYTES;
      while (to < end && !isZeroBlock(this.#window, to)) to += BLOCK_BYTES;
      const first = (this.#windowStart + from) / BLOCK_BYTES;
      this.#fs.writeContent(this.#inode, first, this.#window.subarray(from, to));
      from = to;
    }
  }
}
