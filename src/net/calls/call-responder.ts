import type { Stream, StreamMessageEvent } from '@libp2p/interface';
import type { Clock, Timer } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { PeerId } from '../../util/peer-id.ts';
import { PeerError, type PeerErrorDetail } from '../../transfer/contracts/transport.ts';
import { errorText } from '../../util/errors.ts';
import { WireError, badValue, overLimit } from '../wire/errors.ts';
import { errorFrameOf } from '../wire/frames.ts';
import {
  OVERLOADED_RETRY_MS,
  MEMORY_CALLS_MAX,
  REGISTRY_CALLS_MAX,
  REQUEST_ARRIVAL_MS_MAX,
  SMALL_FRAMES_QUEUED_MAX,
  TREE_CALL_MS_MAX,
  TREE_CHUNK_BYTES,
  UNFINISHED_BYTES_MAX,
} from '../limits.ts';
import type { NetMetrics } from '../metrics.ts';
import { isClosed, piecesOf } from '../wire/stream-io.ts';
import { MessageParser, TREE, treeError, type TreeMessage } from './call-message.ts';
import { CallBudget, type Asker } from './call-budget.ts';
import { CALLS, callOf, requestBytesMax, type Calls } from './call-table.ts';
import { TreeSender } from './call-sender.ts';

/** Handlers that are also told the address that the asker has on the connection of the call. */
export type AskedHandlers = {
  readonly [K in keyof Calls]?: (
    peer: PeerId,
    request: Calls[K][0],
    address: string,
  ) => Promise<Calls[K][1]>;
};

interface Components {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: NetMetrics;
  readonly handlers: AskedHandlers;
}

/** Bytes of requests that have not arrived in full, of all peers. */
interface Unfinished {
  bytes: number;
}

/** The answering side of all streams of tree calls. */
export class TreeResponders {
  readonly #components: Components;
  readonly #unfinished: Unfinished = { bytes: 0 };
  readonly #budget: CallBudget;
  readonly #all = new Set<TreeResponder>();

  constructor(components: Components) {
    this.#components = components;
    this.#budget = new CallBudget(components);
  }

  /** Takes a new stream of the peer. */
  add(asker: Asker, stream: Stream): void {
    if (isClosed(stream)) return;
    const shared = { unfinished: this.#unfinished, budget: this.#budget };
    const responder = new TreeResponder(this.#components, { asker, stream, ...shared });
    this.#all.add(responder);
    stream.addEventListener('close', () => {
      this.#all.delete(responder);
      responder.onClosed();
    });
  }

  stop(): void {
    for (const responder of [...this.#all]) responder.close(new Error('the transport stops'));
  }
}

/** Calls of one kind on a stream. */
interface Places {
  readonly max: number;
  /** Calls whose last word is not sent. */
  open: number;
  /** Calls that the server works on; some of them may be cancelled. */
  running: number;
}

/**
 * Answers the calls that come on one stream, each in its own time and with one last word: the reply
 * or an ERROR. Calls that may wait for a registry have places apart from the others.
 *
 * One request may be incomplete at a time, for `REQUEST_ARRIVAL_MS_MAX`, and those of all streams
 * hold at most `UNFINISHED_BYTES_MAX`.
 *
 * Life: constructed with an open stream -> closed with it, by `close()`, or because the peer broke
 * the protocol.
 */
class TreeResponder {
  readonly #components: Components;
  readonly #asker: Asker;
  readonly #budget: CallBudget;
  readonly #stream: Stream;
  readonly #sender: TreeSender;
  /** Calls whose last word is not sent, and their places. */
  readonly #open = new Map<number, Places>();
  readonly #memory: Places = { max: MEMORY_CALLS_MAX, open: 0, running: 0 };
  readonly #registry: Places = { max: REGISTRY_CALLS_MAX, open: 0, running: 0 };
  readonly #parser: MessageParser;
  readonly #unfinished: Unfinished;
  /**
   * Bytes of this stream that `#unfinished` counts, and since when which message has been arriving.
   */
  #heldBytes = 0;
  #arriving: { readonly ordinal: number; readonly timer: Timer } | undefined;

  constructor(
    components: Components,
    init: {
      readonly asker: Asker;
      readonly stream: Stream;
      readonly unfinished: Unfinished;
      readonly budget: CallBudget;
    },
  ) {
    this.#components = components;
    this.#asker = init.asker;
    this.#budget = init.budget;
    this.#stream = init.stream;
    this.#unfinished = init.unfinished;
    this.#sender = new TreeSender(init.stream);
    this.#parser = new MessageParser({
      bytesMax: ({ type }) => requestBytesMax(type) ?? TREE_CHUNK_BYTES,
      begunMax: 1,
      onMessage: (message) => this.#onMessage(message),
    });
    this.#stream.addEventListener('message', (event: StreamMessageEvent) => {
      try {
        for (const piece of piecesOf(event.data)) {
          if (!isClosed(this.#stream)) this.#parser.accept(piece);
        }
        this.#watchArrival();
      } catch (error) {
        if (!(error instanceof WireError)) throw error;
        this.#violation(error);
      }
    });
  }

  /** The stream is closed: what had arrived of a request is gone. */
  onClosed(): void {
    this.#hold(0);
    this.#arriving?.timer.cancel();
  }

  close(error: Error): void {
    this.#stream.abort(error);
  }

  /** Bounds what an incomplete request holds, and for how long. Throws WireError. */
  #watchArrival(): void {
    if (isClosed(this.#stream)) return;
    this.#hold(this.#parser.unfinishedBytes);
    if (this.#unfinished.bytes > UNFINISHED_BYTES_MAX) {
      throw overLimit('unfinished bytes', this.#unfinished.bytes, UNFINISHED_BYTES_MAX);
    }
    const ordinal = this.#heldBytes === 0 ? undefined : this.#parser.endedCount;
    if (ordinal === this.#arriving?.ordinal) return;
    this.#arriving?.timer.cancel();
    this.#arriving = undefined;
    if (ordinal === undefined) return;
    const onLate = (): void =>
      this.#violation(
        new WireError(`a request did not arrive within ${REQUEST_ARRIVAL_MS_MAX} ms`, {
          code: 'truncated',
        }),
      );
    const timer = this.#components.clock.setTimer(REQUEST_ARRIVAL_MS_MAX, onLate);
    this.#arriving = { ordinal, timer };
  }

  #hold(byteCount: number): void {
    this.#unfinished.bytes += byteCount - this.#heldBytes;
    this.#heldBytes = byteCount;
  }

  #onMessage(message: TreeMessage): void {
    if (isClosed(this.#stream)) return;
    const { id, type } = message;
    if (type === TREE.CANCEL) return this.#onCancel(message);
    if (type === TREE.PING) return this.#onPing(message);
    if (this.#open.has(id)) throw badValue('id', 'not in use', id);
    const name = callOf(type);
    const mayWait = name !== undefined && CALLS[name].registryOf !== undefined;
    const places = mayWait ? this.#registry : this.#memory;
    if (places.open >= places.max || places.running >= places.max) return this.#overloaded(id);
    if (!this.#budget.mayRead(this.#asker, message.body.length)) return this.#overloaded(id);
    const run = this.#prepare(name, message.body);
    if (run === 'over-budget') return this.#overloaded(id);
    if (run === undefined) return this.#fail(id, { code: 'refused' });
    this.#open.set(id, places);
    places.open++;
    void this.#answer(message, run, places);
  }

  #onPing({ id, body }: TreeMessage): void {
    if (body.length > 0) throw overLimit('length of a PING', body.length, 0);
    this.#send({ id, type: TREE.PONG, body });
  }

  /** Whether the call was open. */
  #close(id: number): boolean {
    const places = this.#open.get(id);
    if (places === undefined) return false;
    places.open--;
    return this.#open.delete(id);
  }

  #overloaded(id: number): void {
    this.#fail(id, { code: 'overloaded', retryAfterMs: OVERLOADED_RETRY_MS });
  }

  /** Decodes the request at once, throwing WireError; the call itself follows. Undefined for a call that nobody answers here. */
  #prepare<K extends keyof Calls>(
    name: K | undefined,
    body: Uint8Array,
  ): (() => Promise<Uint8Array>) | 'over-budget' | undefined {
    if (name === undefined) return undefined;
    const handle = this.#components.handlers[name];
    if (handle === undefined) return undefined;
    const { request, reply, placesOf } = CALLS[name];
    const asked = request.decode(body);
    const placeCount = placesOf?.(asked) ?? 0;
    if (placeCount > 0 && !this.#budget.mayWork(this.#asker, placeCount)) return 'over-budget';
    const { peer, address } = this.#asker;
    return async () => reply.encode(await handle(peer, asked, address));
  }

  /** Never rejects. */
  async #answer(
    { id, type }: TreeMessage,
    run: () => Promise<Uint8Array>,
    places: Places,
  ): Promise<void> {
    const { clock, logger } = this.#components;
    const limit = clock.setTimer(TREE_CALL_MS_MAX, () => this.#end(id, { code: 'timeout' }));
    places.running++;
    try {
      const body = await run();
      this.#reply(id, body);
    } catch (error) {
      logger.debug({ peer: this.#asker.peer, type, error: errorText(error) }, 'a tree call failed');
      this.#end(id, failureOf(error));
    } finally {
      places.running--;
      limit.cancel();
    }
  }

  #reply(id: number, body: Uint8Array): void {
    if (!this.#open.has(id)) return;
    // It counts until it is sent, so that a peer that does not read makes this host hold few
    // replies.
    this.#send({ id, type: TREE.OK, body }, () => this.#close(id));
  }

  /** Answers a call with an ERROR, unless it was answered. */
  #end(id: number, detail: PeerErrorDetail): void {
    if (this.#close(id)) this.#fail(id, detail);
  }

  /** A call whose reply has begun, or is sent, goes on as if nothing had been said. */
  #onCancel({ id, body }: TreeMessage): void {
    if (body.length > 0) throw overLimit('length of a CANCEL', body.length, 0);
    if (!this.#open.has(id) || this.#sender.withdraw(id) === 'begun') return;
    this.#end(id, { code: 'cancelled' });
  }

  #fail(id: number, detail: PeerErrorDetail): void {
    this.#send({ id, type: TREE.ERROR, body: treeError.encode(errorFrameOf(detail)) });
  }

  #send(message: TreeMessage, onSent?: () => void): void {
    if (isClosed(this.#stream) || this.#sender.send(message, onSent)) return;
    this.#violation(overLimit('frames unread', SMALL_FRAMES_QUEUED_MAX, SMALL_FRAMES_QUEUED_MAX));
  }

  #violation(error: WireError): void {
    this.#components.metrics.violations.inc({ protocol: 'tree' });
    this.#components.logger.debug(
      { peer: this.#asker.peer, error: errorText(error) },
      'a stream of tree calls broke off',
    );
    this.close(error);
  }
}

/** What the asker is told of an error of the server: a code that it can act on, never the text. */
function failureOf(error: unknown): PeerErrorDetail {
  if (error instanceof PeerError) return error.detail;
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  if (code === 'full') return { code: 'overloaded', retryAfterMs: OVERLOADED_RETRY_MS };
  return { code: code === 'not-found' ? 'not-found' : 'refused' };
}
