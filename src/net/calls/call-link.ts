import type { Connection, Stream, StreamMessageEvent } from '@libp2p/interface';
import type { Clock, Timer } from '../../runtime/clock.ts';
import { deadline } from '../../runtime/deadline.ts';
import { WireError, badValue } from '../wire/errors.ts';
import {
  ABANDONED_MS_MAX,
  CALL_PATIENCE,
  MEMORY_CALLS_MAX,
  REGISTRY_CALLS_MAX,
  STREAM_OPEN_MS,
  TREE_MESSAGE_BYTES_MAX,
} from '../limits.ts';
import type { NetMetrics } from '../metrics.ts';
import { Liveness } from '../wire/liveness.ts';
import { isClosed, piecesOf } from '../wire/stream-io.ts';
import { MessageParser, TREE, type TreeMessage } from './call-message.ts';
import { TreeSender } from './call-sender.ts';

/**
 * Calls to the owner of a tree, their replies and nothing else: one long-lived stream per peer and
 * direction.
 */
export const TREE_PROTOCOL = '/xylem/tree/3';

/** The peer showed no sign of life while a call waited. */
export class SilentError extends Error {
  override name = 'SilentError';
}

interface Components {
  readonly clock: Clock;
  readonly metrics: NetMetrics;
}

/** A call that waits for its last word. */
interface Waiting {
  /** Takes the reply. Throws WireError. */
  readonly onReply: (reply: TreeMessage) => void;
  readonly onClosed: (error: Error) => void;
  /** All of the request is with the stream. */
  sent: boolean;
  /** Set when nobody wants the reply any more. */
  abandoned: Timer | undefined;
}

/**
 * The stream for tree calls that we opened to a peer. The caller keeps no more calls in flight than
 * a peer takes.
 *
 * Life: `TreeLink.open()` -> used -> closed by `close()`, with the stream or its connection, for a
 * breach of the protocol, or because the peer is silent while something waits. Then what waits is
 * rejected.
 */
export class TreeLink {
  readonly #components: Components;
  readonly #stream: Stream;
  readonly #sender: TreeSender;
  readonly #liveness: Liveness;
  readonly #waiting = new Map<number, Waiting>();
  readonly #onClosed: (error: Error) => void;
  #nextId = 0;
  #closed = false;

  private constructor(
    components: Components,
    init: { readonly stream: Stream; readonly onClosed: (error: Error) => void },
  ) {
    this.#components = components;
    this.#stream = init.stream;
    this.#onClosed = init.onClosed;
    this.#sender = new TreeSender(this.#stream, { longMax: 1 });
    this.#liveness = new Liveness(components, {
      patience: CALL_PATIENCE,
      isWaitedFor: () => this.#waiting.size > 0,
      ping: () => this.#send({ id: 0, type: TREE.PING, body: new Uint8Array() }),
      onSilent: () => this.close(new SilentError('the peer showed no sign of life')),
    });
    this.#listen();
  }

  /**
   * Opens the stream. Rejects when the connection or the peer does not take it within
   * `STREAM_OPEN_MS`.
   */
  static async open(
    components: Components,
    init: {
      readonly connection: Connection;
      readonly onClosed: (error: Error) => void;
      readonly signal: AbortSignal;
    },
  ): Promise<TreeLink> {
    const limit = deadline(components.clock, STREAM_OPEN_MS, { signal: init.signal });
    try {
      const stream = await init.connection.newStream(TREE_PROTOCOL, { signal: limit.signal });
      // Beyond a peer's limit of streams this resolves too, with a stream that is reset already.
      if (isClosed(stream)) throw new Error('the stream was reset before it was used');
      return new TreeLink(components, { stream, onClosed: init.onClosed });
    } finally {
      limit.clear();
    }
  }

  /**
   * Sends a request and gives its reply to `take`, whose result it resolves with. It settles with
   * the last word of the peer or with the link, also when the signal aborts before: then the peer
   * is told, and is given `ABANDONED_MS_MAX` for that word. Rejects with WireError when the peer
   * broke the protocol, with what `take` throws, or with any error.
   */
  call<R>(
    request: { readonly type: number; readonly body: Uint8Array },
    take: (reply: TreeMessage) => R,
    signal: AbortSignal,
  ): Promise<R> {
    return new Promise((resolve, reject) => {
      if (this.#closed) return reject(new Error('the stream for tree calls is closed'));
      const id = this.#nextId;
      this.#nextId = (id + 1) >>> 0;
      const onAbort = (): void => this.#abandon(id);
      const end = (): void => {
        signal.removeEventListener('abort', onAbort);
        waiting.abandoned?.cancel();
      };
      const waiting: Waiting = {
        onReply: (reply) => {
          end();
          try {
            resolve(take(reply));
          } catch (error) {
            reject(error as Error);
            if (error instanceof WireError) throw error;
          }
        },
        onClosed: (error) => {
          end();
          reject(error);
        },
        sent: false,
        abandoned: undefined,
      };
      this.#waiting.set(id, waiting);
      if (this.#waiting.size === 1) this.#liveness.wake();
      signal.addEventListener('abort', onAbort, { once: true });
      this.#send({ id, ...request }, () => {
        waiting.sent = true;
        if (waiting.abandoned !== undefined) this.#cancel(id);
      });
    });
  }

  close(error: Error): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#liveness.stop();
    this.#stream.abort(error);
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const each of waiting) each.onClosed(error);
    this.#onClosed(error);
  }

  #listen(): void {
    const parser = new MessageParser({
      bytesMax: ({ type, id }) => this.#bytesMax(type, id),
      begunMax: MEMORY_CALLS_MAX + REGISTRY_CALLS_MAX,
      onMessage: (message) => this.#onMessage(message),
    });
    this.#stream.addEventListener('close', () => this.close(new Error('the stream closed')));
    this.#stream.addEventListener('message', (event: StreamMessageEvent) => {
      this.#liveness.heard();
      try {
        for (const piece of piecesOf(event.data)) if (!this.#closed) parser.accept(piece);
      } catch (error) {
        if (!(error instanceof WireError)) throw error;
        this.#components.metrics.violations.inc({ protocol: 'tree' });
        this.close(error);
      }
    });
  }

  /** Bytes that a message may have: nothing is kept of one that no call waits for. */
  #bytesMax(type: number, id: number): number {
    if (type === TREE.PONG) return 0;
    if (!this.#waiting.has(id)) throw badValue('id', 'that of a call', id);
    return TREE_MESSAGE_BYTES_MAX;
  }

  #onMessage(message: TreeMessage): void {
    if (this.#closed || message.type === TREE.PONG) return;
    const waiting = this.#waiting.get(message.id);
    if (waiting === undefined) throw badValue('id', 'that of a call', message.id);
    this.#waiting.delete(message.id);
    waiting.onReply(message);
  }

  #abandon(id: number): void {
    const waiting = this.#waiting.get(id);
    if (waiting === undefined) return;
    waiting.abandoned = this.#components.clock.setTimer(ABANDONED_MS_MAX, () =>
      this.close(new Error(`a tree call was not ended within ${ABANDONED_MS_MAX} ms`)),
    );
    if (waiting.sent) this.#cancel(id);
  }

  #cancel(id: number): void {
    this.#send({ id, type: TREE.CANCEL, body: new Uint8Array() });
  }

  #send(message: TreeMessage, onSent?: () => void): void {
    if (this.#sender.send(message, onSent)) return;
    this.close(new Error('the peer does not read its tree calls'));
  }
}
