import { assert } from './assert.ts';

/** Fills released buffers of a poisoning pool: a reader that kept one finds wrong bytes. */
const POISON = 0xdb;

/**
 * Payload of a block in a pooled buffer, with a count of its holders.
 *
 * Life: `BufferPool.acquire()` (one holder) -> `retain()`/`release()` in pairs -> at zero holders
 * the slab returns to the pool, and `bytes` must not be touched again. Code that keeps a reference
 * past the current synchronous step retains it.
 */
export class PooledBytes {
  #slab: Uint8Array | undefined;
  readonly #pool: BufferPool | undefined;
  readonly #length: number;
  #holders = 1;

  constructor(slab: Uint8Array, length: number, pool: BufferPool | undefined) {
    assert(
      length <= slab.length,
      `a payload of ${length} bytes does not fit a slab of ${slab.length}`,
    );
    this.#slab = slab;
    this.#length = length;
    this.#pool = pool;
  }

  /** A payload outside any pool, for tests and small payloads. */
  static unpooled(bytes: Uint8Array): PooledBytes {
    return new PooledBytes(bytes, bytes.length, undefined);
  }

  get length(): number {
    return this.#length;
  }

  /** A view of the payload, valid while the caller holds it. */
  get bytes(): Uint8Array {
    assert(this.#slab !== undefined, 'cannot read the bytes of a released buffer');
    return this.#slab.length === this.#length ? this.#slab : this.#slab.subarray(0, this.#length);
  }

  retain(): this {
    assert(this.#holders > 0, 'cannot retain a released buffer');
    this.#holders++;
    return this;
  }

  release(): void {
    assert(this.#holders > 0, 'cannot release a buffer twice');
    if (--this.#holders > 0) return;
    const slab = this.#slab;
    this.#slab = undefined;
    if (slab !== undefined) this.#pool?.takeBack(slab);
  }
}

/**
 * Slabs of one size. The pool keeps up to `freeMax` for reuse and leaves others to the garbage
 * collector. A payload of less than half a slab gets a buffer of its own length: caches count the
 * bytes of payloads, and an image has thousands of small blobs.
 */
export class BufferPool {
  readonly slabBytes: number;
  readonly #freeMax: number;
  readonly #poison: boolean;
  readonly #free: Uint8Array[] = [];

  constructor(init: { slabBytes: number; freeMax: number; poison?: boolean }) {
    this.slabBytes = init.slabBytes;
    this.#freeMax = init.freeMax;
    this.#poison = init.poison ?? false;
  }

  /** A buffer of `length` bytes (at most `slabBytes`) with unspecified content and one holder. */
  acquire(length: number): PooledBytes {
    assert(length <= this.slabBytes, `${length} bytes do not fit a slab of ${this.slabBytes}`);
    const slab =
      length * 2 < this.slabBytes
        ? new Uint8Array(length)
        : (this.#free.pop() ?? new Uint8Array(this.slabBytes));
    return new PooledBytes(slab, length, this);
  }

  /** Called by `PooledBytes.release()` alone. */
  takeBack(slab: Uint8Array): void {
    if (this.#poison) slab.fill(POISON);
    if (slab.length === this.slabBytes && this.#free.length < this.#freeMax) this.#free.push(slab);
  }
}
