import { ByteReader } from '../wire/byte-reader.ts';
import { ByteWriter } from '../wire/byte-writer.ts';
import { message } from '../wire/codec.ts';
import { WireError, badValue, overLimit } from '../wire/errors.ts';
import { FRAME_HEAD_BYTES } from '../wire/frame-parser.ts';
import { errorFrame } from '../wire/frames.ts';
import { TREE_CHUNK_BYTES, TREE_MESSAGE_BYTES_MAX } from '../limits.ts';

/** Types of `/xylem/tree/3` beside those of the calls (call-table.ts). */
export const TREE = { CANCEL: 6, PING: 127, OK: 128, ERROR: 129, PONG: 130 } as const;

/** A message; a reply has the id of its request. */
export interface TreeMessage {
  readonly id: number;
  readonly type: number;
  readonly body: Uint8Array;
}

/** Length, type, id, and whether another frame of the message follows. */
const HEAD_BYTES = FRAME_HEAD_BYTES + 4 + 1;

/** Of the head, what the length counts. */
const COUNTED_BYTES = HEAD_BYTES - 4;

/**
 * The message in frames, so that others can go between them:
 *
 *     length of the rest (u32 LE) | type (u8) | id (u32 LE) | more (u8) | up to 64 KiB of the body
 *
 * `more`: 1 when another frame of the message follows, 0 in the last.
 */
export function* messageFrames({ id, type, body }: TreeMessage): Generator<Uint8Array, void, void> {
  for (let start = 0; ; start += TREE_CHUNK_BYTES) {
    const piece = body.subarray(start, start + TREE_CHUNK_BYTES);
    const more = start + TREE_CHUNK_BYTES < body.length;
    const frame = new Uint8Array(HEAD_BYTES + piece.length);
    const view = new DataView(frame.buffer);
    view.setUint32(0, COUNTED_BYTES + piece.length, true);
    view.setUint8(4, type);
    view.setUint32(FRAME_HEAD_BYTES, id, true);
    view.setUint8(HEAD_BYTES - 1, more ? 1 : 0);
    frame.set(piece, HEAD_BYTES);
    yield frame;
    if (!more) return;
  }
}

/** A message of which more follows. */
interface Partial {
  readonly type: number;
  readonly writer: ByteWriter;
  byteCount: number;
}

interface ParserInit {
  /** Longest body of a message. Throws WireError at one that does not belong there. */
  readonly bytesMax: (message: Pick<TreeMessage, 'type' | 'id'>) => number;
  /** Messages that may be begun at a time. */
  readonly begunMax: number;
  /** Gets each message. Its body is valid during the call only. May throw WireError. */
  readonly onMessage: (message: TreeMessage) => void;
}

/**
 * Puts the pieces in which a stream arrives together to messages. Throws WireError; the stream is
 * then beyond repair. Allocates nothing before the length of a frame was checked, and at most twice
 * the bytes that arrived.
 */
export class MessageParser {
  readonly #init: ParserInit;
  readonly #head = new Uint8Array(4);
  readonly #partials = new Map<number, Partial>();
  /** The frame that is arriving, without its length; undefined while the length is. */
  #frame: Uint8Array | undefined;
  #filled = 0;
  #unfinishedBytes = 0;
  #ended = 0;

  constructor(init: ParserInit) {
    this.#init = init;
  }

  /** Bytes held of messages that have not arrived in full. */
  get unfinishedBytes(): number {
    return this.#unfinishedBytes + (this.#frame?.length ?? this.#filled);
  }

  /**
   * Messages that have arrived in full: a watch over an unfinished one sees from it that another
   * has begun.
   */
  get endedCount(): number {
    return this.#ended;
  }

  /** Takes the next piece of the stream. */
  accept(piece: Uint8Array): void {
    let rest = piece;
    while (rest.length > 0) {
      if (this.#frame === undefined) {
        rest = this.#fill(this.#head, rest);
        if (this.#filled < this.#head.length) return;
        const byteCount = this.#lengthOfFrame();
        this.#filled = 0;
        if (rest.length >= byteCount) {
          this.#onFrame(rest.subarray(0, byteCount));
          rest = rest.subarray(byteCount);
          continue;
        }
        this.#frame = new Uint8Array(byteCount);
      }
      rest = this.#fill(this.#frame, rest);
      if (this.#filled < this.#frame.length) return;
      const frame = this.#frame;
      this.#frame = undefined;
      this.#filled = 0;
      this.#onFrame(frame);
    }
  }

  /** What is left of the piece. */
  #fill(target: Uint8Array, piece: Uint8Array): Uint8Array {
    const taken = piece.subarray(0, target.length - this.#filled);
    target.set(taken, this.#filled);
    this.#filled += taken.length;
    return piece.subarray(taken.length);
  }

  #lengthOfFrame(): number {
    const length = new ByteReader(this.#head).u32();
    if (length < COUNTED_BYTES) {
      throw new WireError('a frame has no type and id', { code: 'truncated' });
    }
    if (length > COUNTED_BYTES + TREE_CHUNK_BYTES) {
      throw overLimit('frame', length, COUNTED_BYTES + TREE_CHUNK_BYTES);
    }
    return length;
  }

  #onFrame(frame: Uint8Array): void {
    const reader = new ByteReader(frame);
    const type = reader.u8();
    const id = reader.u32();
    const more = reader.u8();
    const piece = reader.raw(reader.remaining);
    const partial = this.#partials.get(id);
    if (partial !== undefined && partial.type !== type) {
      throw new WireError(`a message goes on as type ${type}`, { code: 'type', type });
    }
    if (more > 1) throw badValue('more', '0 or 1', more);
    const length = (partial?.byteCount ?? 0) + piece.length;
    const bytesMax = this.#init.bytesMax({ type, id });
    if (length > bytesMax) throw overLimit('message', length, bytesMax);
    if (more === 1) return this.#keep({ id, type, body: piece }, partial);
    this.#ended++;
    if (partial === undefined) return this.#init.onMessage({ id, type, body: piece });
    partial.writer.raw(piece);
    this.#partials.delete(id);
    this.#unfinishedBytes -= partial.byteCount;
    this.#init.onMessage({ id, type, body: partial.writer.finish() });
  }

  #keep({ id, type, body: piece }: TreeMessage, partial: Partial | undefined): void {
    if (piece.length !== TREE_CHUNK_BYTES) {
      throw badValue('length', `${TREE_CHUNK_BYTES} while more follows`, piece.length);
    }
    if (partial === undefined && this.#partials.size >= this.#init.begunMax) {
      throw overLimit('messages begun', this.#partials.size + 1, this.#init.begunMax);
    }
    const kept = partial ?? { type, writer: new ByteWriter(TREE_MESSAGE_BYTES_MAX), byteCount: 0 };
    this.#partials.set(id, kept);
    kept.writer.raw(piece);
    kept.byteCount += piece.length;
    this.#unfinishedBytes += piece.length;
  }
}

/** The body of an ERROR, why a call was not answered: as in the ERROR of a block. */
export const treeError = message(errorFrame, { bytesMax: TREE_MESSAGE_BYTES_MAX });
