import { protocolError, RegistryError } from '../errors.ts';
import type { BodySink } from './message.ts';

/** Keeps a whole body of bounded size. */
export class CollectingSink implements BodySink {
  readonly #what: string;
  readonly #sizeBytesMax: number;
  readonly #pieces: Uint8Array[] = [];
  #length = 0;

  constructor(init: { what: string; sizeBytesMax: number }) {
    this.#what = init.what;
    this.#sizeBytesMax = init.sizeBytesMax;
  }

  write(piece: Uint8Array): boolean {
    this.#length += piece.length;
    if (this.#length > this.#sizeBytesMax) {
      throw new RegistryError(`${this.#what} is larger than ${this.#sizeBytesMax} bytes`, {
        code: 'too-large',
        sizeBytesMax: this.#sizeBytesMax,
      });
    }
    this.#pieces.push(new Uint8Array(piece));
    return true;
  }

  end(): void {}

  cut(): boolean {
    return false;
  }

  bytes(): Uint8Array {
    const bytes = new Uint8Array(this.#length);
    let at = 0;
    for (const piece of this.#pieces) {
      bytes.set(piece, at);
      at += piece.length;
    }
    return bytes;
  }
}

/** Keeps the first bytes of a body that may say what went wrong. */
export class ExcerptSink implements BodySink {
  readonly #sizeBytesMax: number;
  #text = '';

  constructor(init: { sizeBytesMax: number }) {
    this.#sizeBytesMax = init.sizeBytesMax;
  }

  write(piece: Uint8Array): boolean {
    this.#text += Buffer.from(piece).toString('latin1');
    return this.#text.length <= this.#sizeBytesMax;
  }

  end(): void {}

  cut(): boolean {
    return true;
  }

  text(): string {
    return Buffer.from(this.#text.slice(0, this.#sizeBytesMax), 'latin1').toString('utf8');
  }
}

/**
 * A body that nobody wants is read to its end up to here, so that its connection can be used again.
 */
const UNWANTED_BYTES_MAX = 4096;

/** Keeps no byte: all that counts is the head. */
export class HeadSink implements BodySink {
  #length = 0;

  write(piece: Uint8Array): boolean {
    this.#length += piece.length;
    return this.#length <= UNWANTED_BYTES_MAX;
  }

  end(): void {}

  cut(): boolean {
    return true;
  }
}

/** Fills a buffer with part of a body: skips some bytes, takes as many as the buffer holds. */
export class TargetSink implements BodySink {
  readonly #what: string;
  readonly #target: Uint8Array;
  readonly #isWhole: boolean;
  #skip: number;
  #filled = 0;

  /**
   * With `restIsRefused` a body that goes on after the last byte is refused; otherwise it is cut
   * off.
   */
  constructor(init: {
    what: string;
    target: Uint8Array;
    skipBytes: number;
    restIsRefused: boolean;
  }) {
    this.#what = init.what;
    this.#target = init.target;
    this.#skip = init.skipBytes;
    this.#isWhole = init.restIsRefused;
  }

  /** Bytes that it takes in all. */
  get lengthBytes(): number {
    return this.#target.length;
  }

  write(piece: Uint8Array): boolean {
    const skipped = Math.min(this.#skip, piece.length);
    this.#skip -= skipped;
    const left = this.#target.length - this.#filled;
    const wanted = piece.subarray(skipped, skipped + left);
    this.#target.set(wanted, this.#filled);
    this.#filled += wanted.length;
    if (!this.#isWhole) return this.#filled < this.#target.length;
    if (piece.length - skipped > left) {
      throw protocolError('bad-content-range', `${this.#what}: the body is longer than was asked`);
    }
    return true;
  }

  end(): void {
    if (this.#filled === this.#target.length) return;
    const found = `${this.#filled} of ${this.#target.length} bytes`;
    throw protocolError('short-body', `${this.#what}: the body ended after ${found}`);
  }

  cut(): boolean {
    return false;
  }
}
