import { assert } from './assert.ts';

/**
 * Buffers that a run of bytes fills one after the other, from whatever answers bring it: a byte
 * that came stays, and the same byte of a later answer is passed over. So a buffer may be handed
 * on as soon as it is full.
 */
export class Scatter {
  /** Bytes of all buffers together. */
  readonly length: number;
  readonly #targets: readonly Uint8Array[];
  readonly #onFull: (target: number) => void;
  #filled = 0;
  #current = 0;
  /** Bytes of the current buffer that have come. */
  #at = 0;

  /** `onFull`: this buffer is full, and nothing more is written to it. */
  constructor(targets: readonly Uint8Array[], onFull: (target: number) => void = () => {}) {
    this.#targets = targets;
    this.#onFull = onFull;
    this.length = targets.reduce((sum, target) => sum + target.length, 0);
  }

  /** Over one buffer. */
  static of(target: Uint8Array): Scatter {
    return new Scatter([target]);
  }

  /** The buffer, when there is but one. */
  get only(): Uint8Array | undefined {
    return this.#targets.length === 1 ? this.#targets[0] : undefined;
  }

  /** Bytes that have come. */
  get filled(): number {
    return this.#filled;
  }

  get isFull(): boolean {
    return this.#filled === this.length;
  }

  /**
   * Takes a piece that begins `at` bytes into the run, at most where the last one ended; what lies
   * beyond the run is passed over.
   */
  write(at: number, piece: Uint8Array): void {
    if (this.isFull) return;
    assert(at <= this.#filled, `bytes from ${at} on leave a gap after ${this.#filled}`);
    let rest = piece.subarray(Math.min(piece.length, this.#filled - at));
    while (rest.length > 0) {
      const target = this.#targets[this.#current];
      if (target === undefined) return;
      const taken = rest.subarray(0, target.length - this.#at);
      target.set(taken, this.#at);
      this.#at += taken.length;
      this.#filled += taken.length;
      rest = rest.subarray(taken.length);
      if (this.#at < target.length) return;
      this.#at = 0;
      this.#onFull(this.#current++);
    }
  }
}
