import type { Stream } from '@libp2p/interface';
import { SMALL_FRAMES_QUEUED_MAX, TREE_CHUNK_BYTES } from '../limits.ts';
import { flushed, isClosed } from '../wire/stream-io.ts';
import { messageFrames, type TreeMessage } from './call-message.ts';

/** A message on its way out. */
interface Outgoing {
  readonly id: number;
  readonly frames: Iterator<Uint8Array, void, void>;
  /** Its next frame; none when all are sent. */
  next: Uint8Array | undefined;
  begun: boolean;
  /** It has several frames. */
  readonly isLong: boolean;
  readonly onSent: () => void;
}

/**
 * What goes out on one stream of tree calls: a frame of each message in turn, the next only when
 * the socket took the last. So a message waits for a frame of each of those before it, and not for
 * a whole manifest. A caller begins one long message at a time, since the peer keeps no more than
 * one that is not complete; short ones go between its frames.
 *
 * Life: constructed -> used -> nothing is sent any more once the stream is closed.
 */
export class TreeSender {
  readonly #stream: Stream;
  readonly #longMax: number;
  #longBegun = 0;
  /** In the order in which they get their turn. */
  readonly #queue = new Set<Outgoing>();
  #flushing = false;

  /** `longMax`: messages of several frames that may be begun at a time. */
  constructor(stream: Stream, { longMax = Number.POSITIVE_INFINITY } = {}) {
    this.#stream = stream;
    this.#longMax = longMax;
    stream.addEventListener('close', () => this.#queue.clear());
  }

  /**
   * `onSent`: called when all of it is with the stream. False when too many wait: the peer does not
   * read and must be cut off.
   */
  send(message: TreeMessage, onSent: () => void = () => {}): boolean {
    if (this.#queue.size >= SMALL_FRAMES_QUEUED_MAX) return false;
    const frames = messageFrames(message);
    const next = frames.next().value ?? undefined;
    const isLong = message.body.length > TREE_CHUNK_BYTES;
    this.#queue.add({ id: message.id, frames, next, isLong, begun: false, onSent });
    this.#pump();
    return true;
  }

  /** Takes a message out, unless its first frame is sent. */
  withdraw(id: number): 'withdrawn' | 'begun' | 'absent' {
    for (const outgoing of this.#queue) {
      if (outgoing.id !== id) continue;
      if (outgoing.begun) return 'begun';
      this.#queue.delete(outgoing);
      return 'withdrawn';
    }
    return 'absent';
  }

  #pump(): void {
    while (!this.#flushing && !isClosed(this.#stream)) {
      const outgoing = this.#nextOutgoing();
      if (outgoing?.next === undefined) return;
      this.#queue.delete(outgoing);
      const frame = outgoing.next;
      if (outgoing.isLong && !outgoing.begun) this.#longBegun++;
      outgoing.begun = true;
      outgoing.next = outgoing.frames.next().value ?? undefined;
      if (outgoing.next !== undefined) this.#queue.add(outgoing);
      else if (outgoing.isLong) this.#longBegun--;
      this.#send(frame);
      if (outgoing.next === undefined) outgoing.onSent();
    }
  }

  #nextOutgoing(): Outgoing | undefined {
    for (const outgoing of this.#queue) {
      if (!outgoing.isLong || outgoing.begun || this.#longBegun < this.#longMax) return outgoing;
    }
    return undefined;
  }

  #send(frame: Uint8Array): void {
    try {
      if (this.#stream.send(frame)) return;
    } catch (cause) {
      this.#stream.abort(new Error('sending to a peer failed', { cause }));
      return;
    }
    this.#flushing = true;
    void flushed(this.#stream).then(() => {
      this.#flushing = false;
      this.#pump();
    });
  }
}
