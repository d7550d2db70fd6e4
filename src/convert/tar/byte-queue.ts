import { orAbort } from '../../util/or-abort.ts';
import { ConvertError } from '../errors.ts';
import type { TarInput } from './tar-input.ts';

const EMPTY = new Uint8Array(0);

/**
 * A stream of chunks, taken in pieces of other sizes. Holds one chunk at a time, and copies only
 * what lies across two of them.
 */
export class ByteQueue implements TarInput {
  readonly #chunks: AsyncIterator<Uint8Array>;
  readonly #bytesMax: number;
  readonly #signal: AbortSignal | undefined;
  #chunk: Uint8Array = EMPTY;
  /** Of the first byte of #chunk that was not taken. */
  #next = 0;
  /** Bytes of all chunks that came, this one included. */
  #received = 0;
  #isAtEnd = false;

  constructor(
    chunks: AsyncIterable<Uint8Array>,
    options: { bytesMax: number; signal: AbortSignal | undefined },
  ) {
    this.#chunks = chunks[Symbol.asyncIterator]();
    this.#bytesMax = options.bytesMax;
    this.#signal = options.signal;
  }

  /** Count of the bytes taken. */
  get offset(): number {
    return this.#received - this.#chunk.length + this.#next;
  }

  /** The next bytes, if the current chunk has them all. */
  take(length: number): Uint8Array | undefined {
    const end = this.#next + length;
    if (end > this.#chunk.length) return undefined;
    const bytes = this.#chunk.subarray(this.#next, end);
    this.#next = end;
    return bytes;
  }

  /** What the current chunk has left, up to `lengthMax`; nothing when the chunk is used up. */
  takeSome(lengthMax: number): Uint8Array {
    const end = Math.min(this.#chunk.length, this.#next + lengthMax);
    const bytes = this.#chunk.subarray(this.#next, end);
    this.#next = end;
    return bytes;
  }

  /**
   * Waits for the next chunk; the current one must be used up. False at the end of the stream.
   * Throws what the source throws, the signal's reason, or ConvertError beyond the limit.
   */
  async fill(): Promise<boolean> {
    this.#chunk = EMPTY;
    this.#next = 0;
    while (this.#chunk.length === 0) {
      if (this.#isAtEnd) return false;
      const next = this.#chunks.next();
      const { done, value } = await (this.#signal === undefined
        ? next
        : orAbort(next, this.#signal));
      if (done === true) {
        this.#isAtEnd = true;
        return false;
      }
      this.#received += value.length;
      if (this.#received > this.#bytesMax) {
        throw new ConvertError(
          `cannot read the tar archive: it has more than ${this.#bytesMax} bytes`,
          { code: 'too-large', value: this.#received },
        );
      }
      this.#chunk = value;
    }
    return true;
  }

  /** The next bytes; fewer only when the stream ends before. The caller bounds `length`. */
  async read(length: number): Promise<Uint8Array> {
    const whole = this.take(length);
    if (whole !== undefined) return whole;
    const bytes = new Uint8Array(length);
    let done = 0;
    while (done < length) {
      const part = this.takeSome(length - done);
      bytes.set(part, done);
      done += part.length;
      if (done < length && !(await this.fill())) break;
    }
    return bytes.subarray(0, done);
  }

  /** Drops the next bytes. False when the stream ends before. */
  async skip(length: number): Promise<boolean> {
    let left = length - this.takeSome(length).length;
    while (left > 0) {
      if (!(await this.fill())) return false;
      left -= this.takeSome(left).length;
    }
    return true;
  }

  /** Tells the source that no more is read. */
  async close(): Promise<void> {
    if (this.#isAtEnd) return;
    this.#isAtEnd = true;
    const closed = this.#chunks.return?.();
    if (closed === undefined) return;
    // A source that hangs would not end either.
    if (this.#signal?.aborted === true) closed.catch(() => {});
    else await closed;
  }
}
