/** Smallest page that is told apart, in bytes: that of the kernel's page cache. */
const PAGE_BYTES_MIN = 4096;

/** Most pages of a disk: 1 MiB of memory. Pages of disks above 32 GiB are larger. */
const PAGES_MAX = 8 * 1024 * 1024;

const WORD_BITS = 32;

/**
 * Which pages of a disk have been read: a bit for each, in memory that two threads share. One of
 * them marks, the other one counts.
 */
export class TouchedPages {
  readonly #words: Int32Array;
  readonly #pageBytes: number;

  /** Of a disk of this size in bytes; without `shared`, in new memory. */
  constructor(diskBytes: number, shared?: SharedArrayBuffer) {
    let pageBytes = PAGE_BYTES_MIN;
    while (Math.ceil(diskBytes / pageBytes) > PAGES_MAX) pageBytes *= 2;
    const wordCount = Math.ceil(Math.ceil(diskBytes / pageBytes) / WORD_BITS);
    this.#pageBytes = pageBytes;
    this.#words = new Int32Array(shared ?? new SharedArrayBuffer(wordCount * 4));
  }

  get shared(): SharedArrayBuffer {
    return this.#words.buffer as SharedArrayBuffer;
  }

  /** The bytes [offset, offset + length) of the disk have been read. */
  mark(offset: number, length: number): void {
    const last = Math.floor((offset + length - 1) / this.#pageBytes);
    for (let page = Math.floor(offset / this.#pageBytes); page <= last; page++) {
      const at = page >>> 5;
      this.#words[at] = (this.#words[at] ?? 0) | (1 << (page & (WORD_BITS - 1)));
    }
  }

  /** Bytes of the marked pages. */
  count(): number {
    let pages = 0;
    for (const word of this.#words) {
      for (let rest = word; rest !== 0; rest &= rest - 1) pages++;
    }
    return pages * this.#pageBytes;
  }
}
