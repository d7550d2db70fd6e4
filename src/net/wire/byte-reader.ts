import { WireError, badValue } from './errors.ts';

/**
 * Reads little-endian fields of a message that a peer sent. Every read throws WireError rather than
 * go past the end.
 */
export class ByteReader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #offset = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  u8(): number {
    return this.#view.getUint8(this.#take(1));
  }

  u16(): number {
    return this.#view.getUint16(this.#take(2), true);
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  /** An integer of at most 2^53 - 1. */
  u64(field: string): number {
    const low = this.u32();
    const value = this.u32() * 2 ** 32 + low;
    if (!Number.isSafeInteger(value)) throw badValue(field, 'below 2^53', value);
    return value;
  }

  /** A view of the message: a caller that keeps it must copy it. */
  raw(byteCount: number): Uint8Array {
    const start = this.#take(byteCount);
    return this.#bytes.subarray(start, start + byteCount);
  }

  get remaining(): number {
    return this.#bytes.length - this.#offset;
  }

  /** Throws when anything is left over. */
  end(): void {
    if (this.remaining === 0) return;
    throw new WireError(`a message has ${this.remaining} bytes too many`, {
      code: 'trailing',
      byteCount: this.remaining,
    });
  }

  #take(byteCount: number): number {
    if (byteCount > this.remaining) {
      throw new WireError(
        `a message ends ${byteCount - this.remaining} bytes too early, ` +
          `at byte ${this.#bytes.length}`,
        { code: 'truncated' },
      );
    }
    const start = this.#offset;
    this.#offset += byteCount;
    return start;
  }
}
