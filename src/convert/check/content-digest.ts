import type { Hash, Hasher } from '../../runtime/codec.ts';
import { viewOf } from '../../image/binary.ts';
import { assert } from '../../util/assert.ts';
import { KIB } from '../../util/bytes.ts';

/** Aligned blocks of zeros are left out, whether they are stored or holes. */
const BLOCK_BYTES = 4 * KIB;

/** What is hashed behind each run of blocks: where it lies, and how long it is. */
const TRAILER_BYTES = 16;

/**
 * A digest of a file's content that does not tell holes from stored zeros, so that a hole costs
 * nothing, however large it is: the SHA-256 of the runs of blocks with other bytes than zeros, each
 * run with its place behind it. Zeros at the end do not count: the size is compared beside it.
 */
export class ContentDigest {
  readonly #stream: Hasher;
  /** A block of which some bytes are known: those up to #offset. */
  readonly #partial = new Uint8Array(BLOCK_BYTES);
  readonly #trailer = new Uint8Array(TRAILER_BYTES);
  #offset = 0;
  #runStart = 0;
  #runLength = 0;

  constructor(hash: Hash) {
    this.#stream = hash.sha256Stream();
  }

  /** Takes the bytes at `offset`. What lies between the last ones and these is zeros. */
  update(offset: number, bytes: Uint8Array): void {
    assert(offset >= this.#offset, 'content comes in order');
    this.#skipTo(offset);
    let at = 0;
    while (at < bytes.length) {
      const inBlock = this.#offset % BLOCK_BYTES;
      if (inBlock === 0 && bytes.length - at >= BLOCK_BYTES) {
        this.#block(bytes.subarray(at, at + BLOCK_BYTES));
        at += BLOCK_BYTES;
        this.#offset += BLOCK_BYTES;
        continue;
      }
      const part = bytes.subarray(at, at + BLOCK_BYTES - inBlock);
      this.#partial.set(part, inBlock);
      at += part.length;
      this.#offset += part.length;
      if (this.#offset % BLOCK_BYTES === 0) this.#endPartial();
    }
  }

  /** 32 bytes. Nothing may be called afterwards. */
  digest(): Uint8Array {
    if (this.#offset % BLOCK_BYTES > 0) this.#skipTo(this.#offset + BLOCK_BYTES);
    this.#endRun();
    return this.#stream.digest();
  }

  /** Zeros up to there: the rest of a partial block is zeros already. */
  #skipTo(offset: number): void {
    const inBlock = this.#offset % BLOCK_BYTES;
    const blockEnd = this.#offset + BLOCK_BYTES - inBlock;
    if (inBlock > 0 && offset >= blockEnd) {
      this.#offset = blockEnd;
      this.#endPartial();
    }
    this.#offset = offset;
  }

  #endPartial(): void {
    this.#offset -= BLOCK_BYTES;
    this.#block(this.#partial);
    this.#offset += BLOCK_BYTES;
    this.#partial.fill(0);
  }

  /** Takes the whole block at #offset. */
  #block(block: Uint8Array): void {
    if (isZero(block)) return;
    if (this.#runStart + this.#runLength !== this.#offset) {
      this.#endRun();
      this.#runStart = this.#offset;
    }
    this.#stream.update(block);
    this.#runLength += BLOCK_BYTES;
  }

  #endRun(): void {
    if (this.#runLength === 0) return;
    const view = viewOf(this.#trailer);
    view.setFloat64(0, this.#runStart, true);
    view.setFloat64(8, this.#runLength, true);
    this.#stream.update(this.#trailer);
    this.#runLength = 0;
  }
}

function isZero(bytes: Uint8Array): boolean {
  for (let i = 0; i < bytes.length; i++) if (bytes[i] !== 0) return false;
  return true;
}
