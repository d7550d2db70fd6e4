import type { Stream } from '@libp2p/interface';
import type { PooledBytes } from '../../util/buffer-pool.ts';
import { SMALL_FRAMES_QUEUED_MAX } from '../limits.ts';
import { flushed, isClosed } from '../wire/stream-io.ts';

/** An answer on its way out; holds its payload. */
export interface QueuedAnswer {
  readonly head: Uint8Array;
  readonly payload: PooledBytes;
  /** Called when its first byte is sent; from then on it cannot be withdrawn. */
  readonly begun: () => void;
  /** Called once: sent, withdrawn, or the stream is gone. The lane has released the payload. */
  readonly done: () => void;
}

/**
 * What goes out on one stream of a responder: small frames first, then answers in order, one at a
 * time, the next only when the socket took the last. So memory is bounded by the answers queued,
 * and a demand answer waits for one answer at most.
 *
 * Life: constructed -> used -> `close()`, also when the stream closes by itself.
 */
export class Lane {
  readonly #stream: Stream;
  readonly #before: () => Lane | undefined;
  readonly #small: Uint8Array[] = [];
  readonly #answers = new Set<QueuedAnswer>();
  readonly #idleCalls = new Set<() => void>();
  #running = false;

  /** `before`: the lane whose answers all go first. */
  constructor(stream: Stream, before: () => Lane | undefined) {
    this.#stream = stream;
    this.#before = before;
    stream.addEventListener('close', () => this.#dropAll());
  }

  /**
   * Sends a frame of a few bytes. False when too many wait: the peer does not read and must be cut
   * off.
   */
  sendSmall(frame: Uint8Array): boolean {
    if (this.#small.length >= SMALL_FRAMES_QUEUED_MAX) return false;
    this.#small.push(frame);
    this.#start();
    return true;
  }

  /** Queues an answer, whose payload the caller retained for the lane. */
  sendAnswer(answer: QueuedAnswer): void {
    if (isClosed(this.#stream)) return finishAnswer(answer);
    this.#answers.add(answer);
    this.#start();
  }

  /**
   * Takes an answer out, to be finished or sent on another lane; false when the stream closed and
   * it is finished already.
   */
  withdraw(answer: QueuedAnswer): boolean {
    return this.#answers.delete(answer);
  }

  get #busy(): boolean {
    return this.#running || this.#answers.size > 0;
  }

  #start(): void {
    if (this.#running) return;
    this.#running = true;
    void this.#run();
  }

  async #run(): Promise<void> {
    while (!isClosed(this.#stream)) {
      const frame = this.#small.shift();
      if (frame !== undefined) {
        await this.#send(frame);
        continue;
      }
      if (this.#answers.size === 0) break;
      const before = this.#before();
      if (before !== undefined && before.#busy) {
        await before.#idle();
        continue;
      }
      await this.#sendNextAnswer();
    }
    this.#running = false;
    if (isClosed(this.#stream)) this.#dropAll();
    for (const call of this.#idleCalls) call();
    this.#idleCalls.clear();
  }

  async #sendNextAnswer(): Promise<void> {
    const [answer] = this.#answers;
    if (answer === undefined) return;
    this.#answers.delete(answer);
    answer.begun();
    try {
      await this.#send(answer.head);
      await this.#send(answer.payload.bytes);
    } finally {
      finishAnswer(answer);
    }
  }

  /** Resolves when the bytes are with the socket or the stream is closed. */
  async #send(bytes: Uint8Array): Promise<void> {
    if (isClosed(this.#stream)) return;
    try {
      if (this.#stream.send(bytes)) return;
    } catch (cause) {
      this.#stream.abort(new Error('sending to a peer failed', { cause }));
      return;
    }
    await flushed(this.#stream);
  }

  /** Resolves when this lane has nothing to send. */
  #idle(): Promise<void> {
    return new Promise((resolve) => this.#idleCalls.add(resolve));
  }

  #dropAll(): void {
    this.#small.length = 0;
    for (const answer of this.#answers) finishAnswer(answer);
    this.#answers.clear();
  }
}

/** Ends an answer that no lane has: releases its payload. */
export function finishAnswer(answer: QueuedAnswer): void {
  answer.payload.release();
  answer.done();
}
