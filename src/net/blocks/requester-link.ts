import type { Connection, Stream, StreamMessageEvent } from '@libp2p/interface';
import type { Attestation } from '../../image/attestation.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { TouchOrder } from '../../tree/messages.ts';
import type { BufferPool, PooledBytes } from '../../util/buffer-pool.ts';
import { WireError } from '../wire/errors.ts';
import {
  FRAME,
  FRAMES,
  decodeAnswerHead,
  decodeError,
  decodeOrder,
  encodeOpen,
  encodeSignal,
  type ErrorFrame,
  type FrameType,
  type LaneName,
} from '../wire/frames.ts';
import { FrameParser, type FrameSink } from '../wire/frame-parser.ts';
import { BLOCK_PATIENCE, STREAM_OPEN_MS } from '../limits.ts';
import { Liveness } from '../wire/liveness.ts';
import type { NetMetrics } from '../metrics.ts';
import { deadline } from '../../runtime/deadline.ts';
import { isClosed, piecesOf } from '../wire/stream-io.ts';

/**
 * Blocks, their answers and what belongs to them: a few long-lived streams per peer and direction.
 */
export const BLOCK_PROTOCOL = '/xylem/block/1';

const FROM_RESPONDER: ReadonlySet<FrameType> = new Set([
  FRAME.ANSWER,
  FRAME.ERROR,
  FRAME.ORDER,
  FRAME.PONG,
  FRAME.ALIVE,
]);

/**
 * What the link hears of the peer. Those that concern a request throw WireError when there is no
 * such request.
 */
export interface LinkEvents {
  /** An answer begins: whether its payload is wanted. */
  onAnswerBegin(id: number): boolean;
  /** An answer is complete. Takes the payload over; undefined when it was not wanted. */
  onAnswerEnd(id: number, attestation: Attestation, payload: PooledBytes | undefined): void;
  onError(id: number, error: ErrorFrame): void;
  onOrder(order: TouchOrder): void;
  onAlive(): void;
  isWaitedFor(): boolean;
  /** Called now and then. Throws WireError when the peer owes something for too long. */
  onCheck(): void;
  /** Called once. `violation`: the peer broke the protocol. */
  onClosed(violation: WireError | undefined): void;
}

interface Components {
  readonly clock: Clock;
  readonly pool: BufferPool;
  readonly metrics: NetMetrics;
}

/**
 * The two block streams that we opened to a peer on one connection: frames out, frames in.
 *
 * Life: `RequesterLink.open()` -> used -> closed by `close()`, with a stream or its connection, or
 * for a breach of the protocol.
 */
export class RequesterLink {
  readonly #components: Components;
  readonly #connection: Connection;
  readonly #streams: Readonly<Record<LaneName, Stream>>;
  readonly #events: LinkEvents;
  readonly #liveness: Liveness;
  readonly #arriving = new Set<PooledBytes>();
  #closed = false;

  private constructor(
    components: Components,
    init: {
      readonly connection: Connection;
      readonly streams: Readonly<Record<LaneName, Stream>>;
      readonly events: LinkEvents;
    },
  ) {
    this.#components = components;
    this.#connection = init.connection;
    this.#streams = init.streams;
    this.#events = init.events;
    this.#liveness = new Liveness(components, {
      patience: BLOCK_PATIENCE,
      isWaitedFor: () => this.#events.isWaitedFor(),
      ping: () => this.#send('demand', encodeSignal(FRAME.PING)),
      onSilent: () => this.#onSilent(),
      onCheck: () => this.#guard(() => this.#events.onCheck()),
    });
    for (const stream of [this.#streams.demand, this.#streams.bulk]) this.#listen(stream);
  }

  /**
   * Opens the streams. Rejects when the connection or the peer does not take them within
   * `STREAM_OPEN_MS`.
   */
  static async open(
    components: Components,
    init: {
      readonly connection: Connection;
      readonly events: LinkEvents;
      readonly signal: AbortSignal;
    },
  ): Promise<RequesterLink> {
    const limit = deadline(components.clock, STREAM_OPEN_MS, { signal: init.signal });
    const opened: Stream[] = [];
    try {
      const demand = await openStream(init.connection, 'demand', limit.signal);
      opened.push(demand);
      const bulk = await openStream(init.connection, 'bulk', limit.signal);
      opened.push(bulk);
      if (opened.some(isClosed)) throw new Error('a new block stream was reset');
      return new RequesterLink(components, { ...init, streams: { demand, bulk } });
    } catch (error) {
      for (const stream of opened) stream.abort(new Error('the other block stream did not open'));
      throw error;
    } finally {
      limit.clear();
    }
  }

  get closed(): boolean {
    return this.#closed;
  }

  /**
   * Sends a small frame; the asker's credit bounds how many can wait. On a closed link nothing
   * happens.
   */
  send(lane: LaneName, frame: Uint8Array): void {
    this.#send(lane, frame);
  }

  /** Something waits for the peer from now on. */
  wake(): void {
    this.#liveness.wake();
  }

  close(error: Error): void {
    this.#close(error, undefined);
  }

  #send(lane: LaneName, frame: Uint8Array): void {
    const stream = this.#streams[lane];
    if (this.#closed || isClosed(stream)) return;
    try {
      stream.send(frame);
    } catch (cause) {
      this.#close(new Error('sending to a peer failed', { cause }), undefined);
    }
  }

  #listen(stream: Stream): void {
    const parser = new FrameParser(this.#sink(), FRAMES, FROM_RESPONDER);
    stream.addEventListener('close', () =>
      this.#close(new Error('a block stream closed'), undefined),
    );
    stream.addEventListener('message', (event: StreamMessageEvent) => {
      if (this.#closed) return;
      this.#liveness.heard();
      this.#guard(() => {
        for (const piece of piecesOf(event.data)) if (!this.#closed) parser.accept(piece);
      });
    });
  }

  #sink(): FrameSink<FrameType> {
    let answer: { id: number; attestation: Attestation; payload: PooledBytes | undefined };
    return {
      onFrame: (type, body) => {
        if (!this.#closed) this.#onFrame(type, body);
      },
      onAnswer: (head, payloadBytes) => {
        const { id, attestation } = decodeAnswerHead(head);
        const wanted = this.#events.onAnswerBegin(id);
        const payload = wanted ? this.#components.pool.acquire(payloadBytes) : undefined;
        if (payload !== undefined) this.#arriving.add(payload);
        answer = { id, attestation, payload };
        return payload?.bytes;
      },
      onAnswerEnd: () => {
        const { id, attestation, payload } = answer;
        if (payload !== undefined) this.#arriving.delete(payload);
        this.#events.onAnswerEnd(id, attestation, payload);
      },
    };
  }

  #onFrame(type: FrameType, body: Uint8Array): void {
    switch (type) {
      case FRAME.ERROR: {
        const { id, error } = decodeError(body);
        return this.#events.onError(id, error);
      }
      case FRAME.ORDER:
        return this.#events.onOrder(decodeOrder(body));
      case FRAME.ALIVE:
        return this.#events.onAlive();
      default:
        return;
    }
  }

  #onSilent(): void {
    this.#components.metrics.silent.inc({});
    this.#connection.abort(new Error('the peer showed no sign of life'));
  }

  #guard(run: () => void): void {
    try {
      run();
    } catch (error) {
      if (!(error instanceof WireError)) throw error;
      this.#close(error, error);
    }
  }

  #close(error: Error, violation: WireError | undefined): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#liveness.stop();
    for (const stream of [this.#streams.demand, this.#streams.bulk]) stream.abort(error);
    for (const payload of this.#arriving) payload.release();
    this.#arriving.clear();
    if (violation !== undefined) this.#components.metrics.violations.inc({ protocol: 'block' });
    this.#events.onClosed(violation);
  }
}

async function openStream(
  connection: Connection,
  lane: LaneName,
  signal: AbortSignal,
): Promise<Stream> {
  const stream = await connection.newStream(BLOCK_PROTOCOL, { signal });
  // Beyond a peer's limit of streams this resolves too, with a stream that is reset already: send()
  // then throws.
  stream.send(encodeOpen(lane));
  return stream;
}
