import { defined } from '../../util/assert.ts';
import { WireError, overLimit } from './errors.ts';

/** Length of the rest (u32) and type (u8). */
export const FRAME_HEAD_BYTES = 5;

/** The frames of a protocol: their types, and how long each may be. */
export interface FrameSet<T extends number> {
  /** Shortest and longest body of each type, checked before a byte of it is kept. */
  readonly bodyBytes: Readonly<Record<T, readonly [min: number, max: number]>>;
  /** The one type with a payload, which follows these bytes of its body. */
  readonly answer: { readonly type: T; readonly headBytes: number };
}

/** What a parser calls, in the order of the stream. Each may throw WireError. */
export interface FrameSink<T extends number> {
  /** A whole frame other than an answer; the body is valid during the call only. */
  onFrame(type: T, body: Uint8Array): void;
  /** An answer begins: where its `payloadBytes` go, or undefined to skip them. */
  onAnswer(head: Uint8Array, payloadBytes: number): Uint8Array | undefined;
  /** All of the payload is where it was to go. */
  onAnswerEnd(): void;
}

const HEAD = 0;
const BODY = 1;
const PAYLOAD = 2;

/** Bodies up to this size share one buffer: most, but no lists and no payloads. */
const SHARED_BYTES = 128;

/**
 * Cuts the pieces in which a stream arrives into frames. Payloads go straight to where the sink
 * wants them; nothing else is allocated before the length of a frame was checked against its type.
 * Throws WireError; the stream is then beyond repair.
 */
export class FrameParser<T extends number> {
  readonly #sink: FrameSink<T>;
  readonly #set: FrameSet<T>;
  readonly #allowed: ReadonlySet<number>;
  readonly #head = new Uint8Array(FRAME_HEAD_BYTES);
  readonly #shared = new Uint8Array(SHARED_BYTES);
  #state: typeof HEAD | typeof BODY | typeof PAYLOAD = HEAD;
  #type: T;
  /** Where the bytes of this state go; undefined while a payload is skipped. */
  #target: Uint8Array | undefined = this.#head;
  #wanted = FRAME_HEAD_BYTES;
  #filled = 0;
  #payloadBytes = 0;

  /** `allowed`: the types that this side takes. */
  constructor(sink: FrameSink<T>, set: FrameSet<T>, allowed: ReadonlySet<T>) {
    this.#sink = sink;
    this.#set = set;
    this.#type = set.answer.type;
    this.#allowed = allowed;
  }

  /** Takes the next piece of the stream. */
  accept(piece: Uint8Array): void {
    let offset = 0;
    while (offset < piece.length) {
      const count = Math.min(piece.length - offset, this.#wanted - this.#filled);
      if (this.#target !== undefined) {
        const whole = offset === 0 && count === piece.length;
        this.#target.set(whole ? piece : piece.subarray(offset, offset + count), this.#filled);
      }
      this.#filled += count;
      offset += count;
      while (this.#filled === this.#wanted) this.#next();
    }
  }

  /** The bytes of a state are complete. */
  #next(): void {
    switch (this.#state) {
      case HEAD:
        return this.#onHead();
      case BODY:
        return this.#onBody();
      case PAYLOAD:
        this.#expect(HEAD, this.#head, FRAME_HEAD_BYTES);
        return this.#sink.onAnswerEnd();
    }
  }

  #onHead(): void {
    const length = new DataView(this.#head.buffer).getUint32(0, true);
    const type = defined(this.#head[4], 'a head has five bytes');
    if (!this.#allowed.has(type)) {
      throw new WireError(`a frame of type ${type} does not belong here`, { code: 'type', type });
    }
    this.#type = type as T;
    const { bodyBytes: bounds, answer } = this.#set;
    const [min, max] = bounds[this.#type];
    const bodyBytes = length - 1;
    if (bodyBytes < min) {
      throw new WireError(
        `a frame of type ${type} has ${bodyBytes} bytes, at least ${min} belong in it`,
        {
          code: 'truncated',
        },
      );
    }
    if (bodyBytes > max) throw overLimit(`length of a frame of type ${type}`, bodyBytes, max);
    this.#payloadBytes = type === answer.type ? bodyBytes - answer.headBytes : 0;
    const wanted = bodyBytes - this.#payloadBytes;
    this.#expect(BODY, wanted <= SHARED_BYTES ? this.#shared : new Uint8Array(wanted), wanted);
  }

  #onBody(): void {
    const body = defined(this.#target, 'a body is kept').subarray(0, this.#wanted);
    if (this.#type === this.#set.answer.type) {
      const target = this.#sink.onAnswer(body, this.#payloadBytes);
      this.#expect(PAYLOAD, target, this.#payloadBytes);
      return;
    }
    this.#expect(HEAD, this.#head, FRAME_HEAD_BYTES);
    this.#sink.onFrame(this.#type, body);
  }

  #expect(
    state: typeof HEAD | typeof BODY | typeof PAYLOAD,
    target: Uint8Array | undefined,
    wanted: number,
  ): void {
    this.#state = state;
    this.#target = target;
    this.#wanted = wanted;
    this.#filled = 0;
  }
}
