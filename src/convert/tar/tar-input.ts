import { readPart, type ByteSource } from '../../image/byte-source.ts';
import { KIB } from '../../util/bytes.ts';

/** The bytes of an archive, taken from its start on. */
export interface TarInput {
  /** Count of the bytes taken. */
  readonly offset: number;
  /** The next bytes, if all of them are at hand. */
  take(length: number): Uint8Array | undefined;
  /** What of the next bytes is at hand, up to `lengthMax`. */
  takeSome(lengthMax: number): Uint8Array;
  /** Waits for more; nothing may be at hand. False at the end. */
  fill(): Promise<boolean>;
  /** The next bytes; fewer only at the end. The caller bounds `length`. */
  read(length: number): Promise<Uint8Array>;
  /** Drops the next bytes. False when there are not as many. */
  skip(length: number): Promise<boolean>;
}

/** Bytes of a file read at a time: headers are small, and what is skipped is not read. */
const WINDOW_BYTES = 16 * KIB;

const EMPTY = new Uint8Array(0);

/** An archive in a file, of which only what is taken is read. */
export class TarFileInput implements TarInput {
  readonly #file: ByteSource;
  readonly #signal: AbortSignal;
  #window: Uint8Array = EMPTY;
  /** Of the window, in the file. */
  #start = 0;
  #offset = 0;

  constructor(file: ByteSource, signal: AbortSignal) {
    this.#file = file;
    this.#signal = signal;
  }

  get offset(): number {
    return this.#offset;
  }

  take(length: number): Uint8Array | undefined {
    const from = this.#offset - this.#start;
    if (from + length > this.#window.length) return undefined;
    this.#offset += length;
    return this.#window.subarray(from, from + length);
  }

  takeSome(lengthMax: number): Uint8Array {
    const left = Math.max(0, this.#start + this.#window.length - this.#offset);
    return this.take(Math.min(left, lengthMax)) ?? EMPTY;
  }

  async fill(): Promise<boolean> {
    this.#signal.throwIfAborted();
    const length = Math.min(WINDOW_BYTES, this.#left);
    this.#window = await readPart(this.#file, this.#offset, length, 'tar archive');
    this.#start = this.#offset;
    return length > 0;
  }

  async read(length: number): Promise<Uint8Array> {
    const whole = this.take(length);
    if (whole !== undefined) return whole;
    if (length > WINDOW_BYTES) {
      const count = Math.min(length, this.#left);
      const bytes = await readPart(this.#file, this.#offset, count, 'tar archive');
      this.#offset += count;
      return bytes;
    }
    await this.fill();
    return this.takeSome(length);
  }

  async skip(length: number): Promise<boolean> {
    if (length > this.#left) return false;
    this.#offset += length;
    return true;
  }

  get #left(): number {
    return this.#file.sizeBytes - this.#offset;
  }
}
