import type { Scatter } from '../../util/scatter.ts';
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

/** As `HeadSink`, but looks at the first byte of the body, or at there being none. */
export class FirstByteSink extends HeadSink {
  readonly #check: (byte: number | undefined) => void;
  #isSeen = false;

  /** `check` throws for a byte that is not that of the wanted body. */
  constructor(check: (byte: number | undefined) => void) {
    super();
    this.#check = check;
  }

  override write(piece: Uint8Array): boolean {
    this.#see(piece[0]);
    return super.write(piece);
  }

  override end(): void {
    this.#see(undefined);
  }

  #see(byte: number | undefined): void {
    if (this.#isSeen) return;
    this.#isSeen = true;
    this.#check(byte);
  }
}

/** Fills buffers with part of a body: skips some bytes, takes as many as the buffers hold. */
export class TargetSink implements BodySink {
  readonly #what: string;
  readonly #target: Scatter;
  readonly #bodyBytes: number;
  readonly #isWhole: boolean;
  /** Where the next piece stands in the run of the target; less than 0 before its first byte. */
  #at: number;
  readonly #endAt: number;

  /**
   * The body begins `startAt` bytes into the run of the target, or that much before it when less
   * than 0, and `bodyBytes` of it are wanted. With `restIsRefused` a body that goes on after them
   * is refused; otherwise it is cut off.
   */
  constructor(init: {
    what: string;
    target: Scatter;
    startAt: number;
    bodyBytes: number;
    restIsRefused: boolean;
  }) {
    this.#what = init.what;
    this.#target = init.target;
    this.#at = init.startAt;
    this.#bodyBytes = init.bodyBytes;
    this.#endAt = init.startAt + init.bodyBytes;
    this.#isWhole = init.restIsRefused;
  }

  write(piece: Uint8Array): boolean {
    const at = this.#at;
    this.#at += piece.length;
    if (this.#isWhole && this.#at > this.#endAt) {
      throw protocolError('range-broken', `${this.#what}: the body is longer than was asked`);
    }
    if (this.#at > 0) this.#target.write(Math.max(0, at), piece.subarray(Math.max(0, -at)));
    return this.#isWhole || this.#at < this.#endAt;
  }

  end(): void {
    if (this.#at >= this.#endAt) return;
    const missing = this.#endAt - this.#at;
    const found = `${this.#bodyBytes - missing} of ${this.#bodyBytes} bytes`;
    throw protocolError('short-body', `${this.#what}: the body ended after ${found}`);
  }

  cut(): boolean {
    return false;
  }
}
