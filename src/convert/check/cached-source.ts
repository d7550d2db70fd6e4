import { truncated } from '../../image/errors.ts';
import { readPart, type ByteSource } from '../../image/byte-source.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { KIB } from '../../util/bytes.ts';

/** Bytes of a page: metadata lies close together, and each read of an image costs. */
const PAGE_BYTES = 64 * KIB;

/** Pages that are kept: 8 MiB. */
const PAGES_MAX = 128;

/** A source that keeps the pages which were read last, for many small reads. */
export class CachedSource implements ByteSource {
  readonly sizeBytes: number;
  readonly #source: ByteSource;
  readonly #pages = new BoundedMap<number, Uint8Array>({ entriesMax: PAGES_MAX, evict: 'use' });

  constructor(source: ByteSource) {
    this.#source = source;
    this.sizeBytes = source.sizeBytes;
  }

  /** Throws ImageError for bytes beyond the end. */
  async read(offset: number, length: number): Promise<Uint8Array> {
    if (offset < 0 || offset + length > this.sizeBytes) {
      const range = `it needs bytes ${offset} to ${offset + length} of ${this.sizeBytes}`;
      throw truncated('ext4', range);
    }
    const first = Math.floor(offset / PAGE_BYTES);
    const start = offset - first * PAGE_BYTES;
    if (start + length <= PAGE_BYTES) {
      return (await this.#page(first)).subarray(start, start + length);
    }
    const bytes = new Uint8Array(length);
    for (let done = 0; done < length; ) {
      const at = offset + done;
      const number = Math.floor(at / PAGE_BYTES);
      const from = at - number * PAGE_BYTES;
      const part = (await this.#page(number)).subarray(from, from + length - done);
      bytes.set(part, done);
      done += part.length;
    }
    return bytes;
  }

  async #page(number: number): Promise<Uint8Array> {
    const known = this.#pages.get(number);
    if (known !== undefined) return known;
    const offset = number * PAGE_BYTES;
    const length = Math.min(PAGE_BYTES, this.sizeBytes - offset);
    const page = await readPart(this.#source, offset, length, 'ext4');
    this.#pages.set(number, page);
    return page;
  }
}
