import type { AttestedBlock } from '../../image/attested-block.ts';
import type { Stream, StreamMessageEvent } from '@libp2p/interface';
import type {
  BlockRequest,
  BlockServer,
  IncomingBlockRequest,
  PeerErrorDetail,
} from '../../transfer/contracts/transport.ts';
import type { TouchOrder } from '../../tree/messages.ts';
import { assert } from '../../util/assert.ts';
import type { PeerId } from '../../util/peer-id.ts';
import { WireError, badValue, overLimit } from '../wire/errors.ts';
import {
  FRAME,
  FRAMES,
  decodeId,
  decodeOpen,
  decodeRequest,
  encodeAnswerHead,
  encodeError,
  encodeOrder,
  encodeSignal,
  errorFrameOf,
  type FrameType,
  type LaneName,
} from '../wire/frames.ts';
import { FrameParser } from '../wire/frame-parser.ts';
import { Lane, finishAnswer, type QueuedAnswer } from './lane.ts';
import {
  ORDER_INDICES_MAX,
  OVERLOADED_RETRY_MS,
  PAYLOAD_BYTES_MAX,
  REQUESTS_IN_FLIGHT_MAX,
  SMALL_FRAMES_QUEUED_MAX,
} from '../limits.ts';
import type { NetMetrics } from '../metrics.ts';
import { piecesOf } from '../wire/stream-io.ts';

const FROM_REQUESTER: ReadonlySet<FrameType> = new Set([
  FRAME.OPEN,
  FRAME.REQUEST,
  FRAME.CANCEL,
  FRAME.PROMOTE,
  FRAME.PING,
]);

/** A request of the peer; answered once, by an ANSWER or an ERROR, whatever happens. */
class Incoming implements IncomingBlockRequest {
  readonly id: number;
  readonly peer: PeerId;
  request: BlockRequest;
  /** The stream that the request came on. */
  readonly askedOn: Lane;
  /** Its answer, while that waits to be sent. */
  queued: { readonly lane: Lane; readonly answer: QueuedAnswer } | undefined;
  readonly #responder: Responder;

  constructor(
    responder: Responder,
    init: { readonly id: number; readonly request: BlockRequest; readonly askedOn: Lane },
  ) {
    this.#responder = responder;
    this.id = init.id;
    this.peer = responder.peer;
    this.request = init.request;
    this.askedOn = init.askedOn;
  }

  answer(block: AttestedBlock): Promise<void> {
    return this.#responder.answer(this, block);
  }

  fail(detail: PeerErrorDetail): void {
    this.#responder.fail(this, detail);
  }
}

/**
 * Our side of the block streams that one peer opened on one connection: takes its requests, sends
 * our answers.
 *
 * Life: made with the first stream -> `addStream()` for each -> closed when one of the streams
 * closes, by `close()`, or because the peer broke the protocol. Then the server hears `onCancel`
 * for what it had not answered.
 */
export class Responder {
  readonly peer: PeerId;
  readonly #components: {
    readonly server: BlockServer;
    readonly metrics: NetMetrics;
    readonly nowMs: () => number;
  };
  readonly #onClosed: () => void;
  readonly #streams = new Set<Stream>();
  readonly #lanes = new Map<LaneName, Lane>();
  readonly #incoming = new Map<number, Incoming>();
  #lastHeardMs: number;
  #closed = false;

  constructor(
    components: { server: BlockServer; metrics: NetMetrics; nowMs: () => number },
    init: { readonly peer: PeerId; readonly onClosed: () => void },
  ) {
    this.#components = components;
    this.peer = init.peer;
    this.#onClosed = init.onClosed;
    this.#lastHeardMs = components.nowMs();
  }

  /** When the peer last sent anything, in milliseconds of the clock. */
  get lastHeardMs(): number {
    return this.#lastHeardMs;
  }

  addStream(stream: Stream): void {
    let lane: Lane | undefined;
    const parser = new FrameParser(
      {
        onFrame: (type, body) => {
          if (this.#closed) return;
          if (lane === undefined) lane = this.#open(stream, type, body);
          else this.#onFrame(lane, type, body);
        },
        onAnswer: () => undefined,
        onAnswerEnd: () => {},
      },
      FRAMES,
      FROM_REQUESTER,
    );
    this.#streams.add(stream);
    stream.addEventListener('close', () => this.close(new Error('a stream of the peer closed')));
    stream.addEventListener('message', (event: StreamMessageEvent) => {
      if (this.#closed) return;
      this.#lastHeardMs = this.#components.nowMs();
      try {
        for (const piece of piecesOf(event.data)) if (!this.#closed) parser.accept(piece);
      } catch (error) {
        if (!(error instanceof WireError)) throw error;
        this.#violation(error);
      }
    });
  }

  /** Holds the payload until it is with the socket; never rejects. */
  answer(incoming: Incoming, block: AttestedBlock): Promise<void> {
    const { length } = block.payload;
    assert(length > 0 && length <= PAYLOAD_BYTES_MAX, `a payload of ${length} bytes is no block`);
    if (!this.#waits(incoming)) return Promise.resolve();
    const { promise, resolve } = Promise.withResolvers<void>();
    const lane = this.#laneFor(incoming);
    const answer: QueuedAnswer = {
      head: encodeAnswerHead(incoming.id, block.attestation, length),
      payload: block.payload.retain(),
      begun: () => this.#incoming.delete(incoming.id),
      done: resolve,
    };
    incoming.queued = { lane, answer };
    lane.sendAnswer(answer);
    return promise;
  }

  fail(incoming: Incoming, detail: PeerErrorDetail): void {
    if (!this.#waits(incoming)) return;
    this.#incoming.delete(incoming.id);
    this.#sendSmall(encodeError(incoming.id, errorFrameOf(detail)));
  }

  /** Goes behind the answers of the demand lane. */
  sendOrder(order: TouchOrder): void {
    const lane = this.#lanes.get('bulk');
    if (lane === undefined) return;
    for (let start = 0; start < order.indices.length; start += ORDER_INDICES_MAX) {
      const indices = order.indices.slice(start, start + ORDER_INDICES_MAX);
      // The order is a hint: a peer that does not read in time does not get it.
      lane.sendSmall(encodeOrder({ digest: order.digest, indices }));
    }
  }

  sendAlive(): void {
    this.#sendSmall(encodeSignal(FRAME.ALIVE));
  }

  close(error: Error): void {
    if (this.#closed) return;
    this.#closed = true;
    const unanswered = [...this.#incoming.values()].filter(({ queued }) => queued === undefined);
    this.#incoming.clear();
    for (const stream of this.#streams) stream.abort(error);
    this.#onClosed();
    for (const incoming of unanswered) this.#components.server.onCancel(incoming);
  }

  /** Whether the request still has no answer. */
  #waits(incoming: Incoming): boolean {
    return this.#incoming.get(incoming.id) === incoming && incoming.queued === undefined;
  }

  #laneFor(incoming: Incoming): Lane {
    return (
      this.#lanes.get(incoming.request.kind === 'demand' ? 'demand' : 'bulk') ?? incoming.askedOn
    );
  }

  #open(stream: Stream, type: FrameType, body: Uint8Array): Lane {
    if (type !== FRAME.OPEN) throw misplaced(type);
    const name = decodeOpen(body);
    if (this.#lanes.has(name)) throw badValue('lane', 'opened once', name);
    const before = (): Lane | undefined =>
      name === 'bulk' ? this.#lanes.get('demand') : undefined;
    const lane = new Lane(stream, before);
    this.#lanes.set(name, lane);
    return lane;
  }

  #onFrame(lane: Lane, type: FrameType, body: Uint8Array): void {
    switch (type) {
      case FRAME.REQUEST:
        return this.#onRequest(lane, body);
      case FRAME.CANCEL:
        return this.#onCancel(decodeId(body));
      case FRAME.PROMOTE:
        return this.#onPromote(decodeId(body));
      case FRAME.PING:
        return this.#sendSmall(encodeSignal(FRAME.PONG));
      default:
        throw misplaced(type);
    }
  }

  #onRequest(lane: Lane, body: Uint8Array): void {
    const { id, request } = decodeRequest(body);
    if (this.#incoming.has(id)) throw badValue('id', 'not in use', id);
    if (this.#incoming.size >= REQUESTS_IN_FLIGHT_MAX) {
      this.#components.metrics.overCredit.inc({});
      const error = { code: 'overloaded', retryAfterMs: OVERLOADED_RETRY_MS } as const;
      return this.#sendSmall(encodeError(id, error));
    }
    const incoming = new Incoming(this, { id, request, askedOn: lane });
    this.#incoming.set(id, incoming);
    this.#components.server.onRequest(incoming);
  }

  /**
   * Answered with `cancelled`, so that both sides count the credit alike. A request that has been
   * answered is no breach.
   */
  #onCancel(id: number): void {
    const incoming = this.#incoming.get(id);
    if (incoming === undefined) return;
    this.#incoming.delete(id);
    this.#sendSmall(encodeError(id, { code: 'cancelled', retryAfterMs: 0 }));
    const { queued } = incoming;
    if (queued === undefined) return this.#components.server.onCancel(incoming);
    if (queued.lane.withdraw(queued.answer)) finishAnswer(queued.answer);
  }

  #onPromote(id: number): void {
    const incoming = this.#incoming.get(id);
    if (incoming === undefined || incoming.request.kind === 'demand') return;
    incoming.request = { ...incoming.request, kind: 'demand' };
    const { queued } = incoming;
    if (queued === undefined) return this.#components.server.onPromote(incoming);
    if (!queued.lane.withdraw(queued.answer)) return;
    const lane = this.#laneFor(incoming);
    incoming.queued = { lane, answer: queued.answer };
    lane.sendAnswer(queued.answer);
  }

  #sendSmall(frame: Uint8Array): void {
    const lane = this.#lanes.get('demand') ?? this.#lanes.get('bulk');
    if (lane === undefined || lane.sendSmall(frame)) return;
    this.#violation(overLimit('frames unread', SMALL_FRAMES_QUEUED_MAX, SMALL_FRAMES_QUEUED_MAX));
  }

  #violation(error: WireError): void {
    if (this.#closed) return;
    this.#components.metrics.violations.inc({ protocol: 'block' });
    this.close(error);
  }
}

function misplaced(type: FrameType): WireError {
  return new WireError(`a frame of type ${type} does not belong here`, { code: 'type', type });
}
