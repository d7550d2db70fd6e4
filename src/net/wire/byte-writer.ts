import { assert } from '../../util/assert.ts';
import { overLimit } from './errors.ts';

const FIRST_BYTES = 256;

/**
 * Writes little-endian fields into a buffer that grows up to `maxBytes`; beyond it throws WireError
 * `limit`.
 */
export class ByteWriter {
  #bytes: Uint8Array<ArrayBuffer>;
  #view: DataView;
  #length = 0;
  readonly #maxBytes: number;

  /** `firstBytes`: room for the usual message, so that the buffer does not grow. */
  constructor(maxBytes: number, firstBytes = FIRST_BYTES) {
    this.#maxBytes = maxBytes;
    this.#bytes = new Uint8Array(Math.min(maxBytes, firstBytes));
    this.#view = new DataView(this.#bytes.buffer);
  }

  u8(value: number): void {
    assertFits(value, 0xff);
    this.#grow(1);
    this.#bytes[this.#length++] = value;
  }

  u16(value: number): void {
    assertFits(value, 0xffff);
    this.#grow(2);
    this.#view.setUint16(this.#length, value, true);
    this.#length += 2;
  }

  u32(value: number): void {
    assertFits(value, 0xffff_ffff);
    this.#grow(4);
    this.#view.setUint32(this.#length, value, true);
    this.#length += 4;
  }

  /** A safe integer in 8 bytes. */
  u64(value: number): void {
    assertFits(value, Number.MAX_SAFE_INTEGER);
    this.u32(value % 2 ** 32);
    this.u32(Math.floor(value / 2 ** 32));
  }

  raw(bytes: Uint8Array): void {
    this.#grow(bytes.length);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  /** Text of ASCII characters, one byte each. */
  ascii(text: string): void {
    this.#grow(text.length);
    for (let i = 0; i < text.length; i++) this.#bytes[this.#length + i] = text.charCodeAt(i);
    this.#length += text.length;
  }

  /** What was written; the writer is not used again. */
  finish(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }

  #grow(byteCount: number): void {
    const needed = this.#length + byteCount;
    if (needed <= this.#bytes.length) return;
    if (needed > this.#maxBytes) throw overLimit('message', needed, this.#maxBytes);
    const bytes = new Uint8Array(
      Math.min(this.#maxBytes, Math.max(needed, 2 * this.#bytes.length)),
    );
    bytes.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer);
  }
}

/**
 * The caller's numbers are our counts and indices: one that does not fit is a defect, not a peer's
 * doing.
 */
function assertFits(value: number, max: number): void {
  if (Number.isSafeInteger(value) && value >= 0 && value <= max) return;
  assert(false, `${value} is not in 0..${max}`);
}
