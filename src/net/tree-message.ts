import { defined } from '../util/assert.ts';
import { ByteReader } from './byte-reader.ts';
import { ByteWriter } from './byte-writer.ts';
import { WireError, overLimit } from './errors.ts';
import { FRAME_HEAD_BYTES, readError, writeError, type ErrorFrame } from './frames.ts';
import { TREE_CHUNK_BYTES, TREE_MESSAGE_BYTES_MAX } from './limits.ts';

/** Types of `/xylem/tree/1`: requests by their call, replies by their outcome. */
export const TREE = {
  JOIN: 1,
  LEAVE: 2,
  REPORT: 3,
  RESOLVE: 4,
  STAT: 5,
  OK: 128,
  ERROR: 129,
} as const;

/** A message and its type. */
export interface TreeMessage {
  readonly type: number;
  readonly body: Uint8Array;
}

/** The message in pieces, behind the same head as block frames have: length of the rest (u32 LE), type (u8). */
export function* messageChunks(message: TreeMessage): Generator<Uint8Array> {
  const bytes = new Uint8Array(FRAME_HEAD_BYTES + message.body.length);
  new DataView(bytes.buffer).setUint32(0, 1 + message.body.length, true);
  bytes[4] = message.type;
  bytes.set(message.body, FRAME_HEAD_BYTES);
  for (let start = 0; start < bytes.length; start += TREE_CHUNK_BYTES) {
    yield bytes.subarray(start, start + TREE_CHUNK_BYTES);
  }
}

/**
 * The one message of a stream. It ends with its length, not with the stream: the end may have come before anybody listened.
 * Throws WireError; allocates nothing before the length was checked, and no more than arrived twice over.
 */
export async function collectMessage(
  source: AsyncIterable<Iterable<Uint8Array> | Uint8Array>,
): Promise<TreeMessage> {
  const collector = new Collector();
  for await (const data of source) {
    for (const piece of data instanceof Uint8Array ? [data] : data) collector.accept(piece);
    const message = collector.message();
    if (message !== undefined) return message;
  }
  throw new WireError('a stream ended before its message', { code: 'truncated' });
}

class Collector {
  readonly #writer = new ByteWriter(FRAME_HEAD_BYTES + TREE_MESSAGE_BYTES_MAX);
  #count = 0;
  #wanted: number | undefined;

  accept(piece: Uint8Array): void {
    this.#writer.raw(piece);
    this.#count += piece.length;
    if (this.#wanted === undefined && this.#count >= FRAME_HEAD_BYTES) {
      const length = new ByteReader(this.#writer.finish()).u32();
      if (length === 0) throw new WireError('a message has no type', { code: 'truncated' });
      if (length - 1 > TREE_MESSAGE_BYTES_MAX) {
        throw overLimit('message', length - 1, TREE_MESSAGE_BYTES_MAX);
      }
      this.#wanted = 4 + length;
    }
    if (this.#wanted !== undefined && this.#count > this.#wanted) {
      const byteCount = this.#count - this.#wanted;
      throw new WireError(`${byteCount} bytes follow a message`, { code: 'trailing', byteCount });
    }
  }

  message(): TreeMessage | undefined {
    if (this.#count !== this.#wanted) return undefined;
    const bytes = this.#writer.finish();
    return { type: defined(bytes[4], 'a head was read'), body: bytes.subarray(FRAME_HEAD_BYTES) };
  }
}

/** Why a call was not answered: code (u8), delay (u32), as in the ERROR of a block. */
export function encodeTreeError(error: ErrorFrame): Uint8Array {
  const writer = new ByteWriter(FRAME_HEAD_BYTES);
  writeError(writer, error);
  return writer.finish();
}

export function decodeTreeError(body: Uint8Array): ErrorFrame {
  const reader = new ByteReader(body);
  const error = readError(reader);
  reader.end();
  return error;
}
