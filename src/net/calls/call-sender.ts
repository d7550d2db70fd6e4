import type { Stream } from '@libp2p/interface';
import { SMALL_FRAMES_QUEUED_MAX } from '../limits.ts';
import { flushed, isClosed } from '../wire/stream-io.ts';
import { messageFrames, type TreeMessage } from './call-message.ts';

/** A message on its way out. */
interface Outgoing {
  readonly id: number;
  readonly frames: Iterator<Uint8Array, void, void>;
  /** Its next frame; none when all are sent. */
  next: Uint8Array | undefined;
  begun: boolean;
  readonly onSent: () => void;
}

/**
 * What goes out on one stream of tree calls: a frame of each message in turn, the next only when the socket took the last. So a
 * message waits for a frame of each of those before it, and not for a whole manifest.
 *
 * Life: constructed -> used -> nothing is sent any more once the stream is closed.
 */
export class TreeSender {
  readonly #stream: Stream;
  /** In the order in which they get their turn. */
  readonly #queue = new Set<Outgoing>();
  #flushing = false;

  constructor(stream: Stream) {
    this.#stream = stream;
    stream.addEventListener('close', () => this.#queue.clear());
  }

  /** `onSent`: called when all of it is with the stream. False when too many wait: the peer does not read and must be cut off. */
  send(message: TreeMessage, onSent: () => void = () => {}): boolean {
    if (this.#queue.size >= SMALL_FRAMES_QUEUED_MAX) return false;
    const frames = messageFrames(message);
    const next = frames.next().value ?? undefined;
    this.#queue.add({ id: message.id, frames, next, begun: false, onSent });
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
      const [outgoing] = this.#queue;
      if (outgoing?.next === undefined) return;
      this.#queue.delete(outgoing);
      const frame = outgoing.next;
      outgoing.begun = true;
      outgoing.next = outgoing.frames.next().value ?? undefined;
      if (outgoing.next !== undefined) this.#queue.add(outgoing);
      this.#send(frame);
      if (outgoing.next === undefined) outgoing.onSent();
    }
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
