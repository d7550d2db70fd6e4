import type { Connection, Stream } from '@libp2p/interface';
import { messageStreamToDuplex } from '@libp2p/utils';
import { pipe } from 'it-pipe';
import type { Clock } from '../runtime/clock.ts';
import type { Logger } from '../runtime/logger.ts';
import { PeerError, type PeerErrorDetail, type TreeServer } from '../transfer/transport.ts';
import type { HostAddress } from '../tree/messages.ts';
import { errorText } from '../util/errors.ts';
import { Limiter } from '../util/limiter.ts';
import type { PeerId } from '../util/peer-id.ts';
import { peerError } from './block-call.ts';
import { DeadlineError, deadline, unlessAborted } from './deadline.ts';
import { WireError } from './errors.ts';
import { detailOf, errorFrameOf } from './frames.ts';
import {
  OVERLOADED_RETRY_MS,
  REQUESTS_QUEUED_MAX,
  TREE_CALLS_MAX,
  TREE_CALL_MS_MAX,
} from './limits.ts';
import type { NetMetrics } from './metrics.ts';
import { isClosed } from './stream-io.ts';
import * as codec from './tree-codec.ts';
import {
  TREE,
  collectMessage,
  decodeTreeError,
  encodeTreeError,
  messageChunks,
  type TreeMessage,
} from './tree-message.ts';

/**
 * Calls to the owner of a tree. A short stream for each: one more round trip and 0.65 ms of CPU (RUNTIME), against a call per
 * container start; in return no call stands behind a manifest of 4 MiB, and a call ends with its stream.
 */
export const TREE_PROTOCOL = '/xylem/tree/1';

/** One kind of call: its type and how its messages are written. */
export interface TreeCall<Q, R> {
  readonly name: string;
  readonly type: number;
  readonly request: codec.MessageCodec<Q>;
  readonly reply: codec.MessageCodec<R>;
}

export const JOIN = {
  name: 'join',
  type: TREE.JOIN,
  request: codec.joinRequest,
  reply: codec.joinReply,
};
export const LEAVE = {
  name: 'leave',
  type: TREE.LEAVE,
  request: codec.leaveRequest,
  reply: codec.leaveReply,
};
export const REPORT = {
  name: 'report',
  type: TREE.REPORT,
  request: codec.reportRequest,
  reply: codec.reportReply,
};
export const RESOLVE = {
  name: 'resolve',
  type: TREE.RESOLVE,
  request: codec.resolveRequest,
  reply: codec.resolveReply,
};
export const STAT = {
  name: 'stat',
  type: TREE.STAT,
  request: codec.statRequest,
  reply: codec.statReply,
};

/** The asking side. */
export class TreeClient {
  readonly #components: {
    readonly clock: Clock;
    readonly metrics: NetMetrics;
    readonly connect: (host: HostAddress, signal: AbortSignal) => Promise<Connection>;
  };
  readonly #limiters = new Map<PeerId, { readonly limiter: Limiter; users: number }>();
  readonly #stopping = new AbortController();

  constructor(components: {
    readonly clock: Clock;
    readonly metrics: NetMetrics;
    readonly connect: (host: HostAddress, signal: AbortSignal) => Promise<Connection>;
  }) {
    this.#components = components;
  }

  /** Asks the host. Rejects with PeerError, `cancelled` when the signal aborted. */
  async call<Q, R>(
    kind: TreeCall<Q, R>,
    host: HostAddress,
    request: Q,
    signal: AbortSignal,
  ): Promise<R> {
    const limit = deadline(
      this.#components.clock,
      TREE_CALL_MS_MAX,
      AbortSignal.any([signal, this.#stopping.signal]),
    );
    try {
      const body = encoded(kind, host.peer, request);
      const reply = await this.#limited(host.peer, () => this.#ask(kind, host, body, limit.signal));
      this.#count(kind, 'ok');
      return reply;
    } catch (error) {
      const cause: unknown = limit.signal.aborted ? limit.signal.reason : error;
      const detail = this.#detailOf(cause, signal);
      this.#count(kind, detail.code);
      if (detail.code === 'protocol') this.#components.metrics.violations.inc({ protocol: 'tree' });
      throw cause instanceof PeerError ? cause : peerError(host.peer, detail, cause);
    } finally {
      limit.clear();
    }
  }

  stop(): void {
    this.#stopping.abort(new Error('the transport stops'));
  }

  async #ask<Q, R>(
    kind: TreeCall<Q, R>,
    host: HostAddress,
    body: Uint8Array,
    signal: AbortSignal,
  ): Promise<R> {
    const connection = await this.#components.connect(host, signal);
    const stream = await connection.newStream(TREE_PROTOCOL, { signal });
    const onAbort = (): void => stream.abort(signal.reason as Error);
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      if (isClosed(stream)) throw new Error('the stream was reset before it was used');
      // Over a stream that was reset before the pipe listened to it the pipe never ends, whatever is done to the stream.
      const message = await unlessAborted(
        pipe(
          messageChunks({ type: kind.type, body }),
          messageStreamToDuplex(stream),
          collectMessage,
        ),
        signal,
      );
      return replyOf(kind, host.peer, message);
    } catch (error) {
      stream.abort(error as Error);
      throw error;
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  /** Runs few calls to a peer at a time: it takes no more. */
  async #limited<T>(peer: PeerId, run: () => Promise<T>): Promise<T> {
    const entry = this.#limiters.get(peer) ?? { limiter: newLimiter(), users: 0 };
    this.#limiters.set(peer, entry);
    entry.users++;
    try {
      const result = entry.limiter.run(run);
      if (result === undefined) {
        throw peerError(peer, { code: 'overloaded', retryAfterMs: OVERLOADED_RETRY_MS });
      }
      return await result;
    } finally {
      if (--entry.users === 0) this.#limiters.delete(peer);
    }
  }

  #detailOf(cause: unknown, signal: AbortSignal): PeerErrorDetail {
    if (cause instanceof PeerError) return cause.detail;
    if (cause instanceof WireError) return { code: 'protocol' };
    if (signal.aborted) return { code: 'cancelled' };
    if (cause instanceof DeadlineError) return { code: 'timeout' };
    return { code: 'unreachable' };
  }

  #count(kind: { readonly name: string }, outcome: string): void {
    this.#components.metrics.treeCalls.inc({ call: kind.name, outcome });
  }
}

function newLimiter(): Limiter {
  return new Limiter({ runningMax: TREE_CALLS_MAX, waitingMax: REQUESTS_QUEUED_MAX });
}

/** A request that breaks a bound of the protocol is refused here, before the peer does. */
function encoded<Q, R>(kind: TreeCall<Q, R>, peer: PeerId, request: Q): Uint8Array {
  try {
    return kind.request.encode(request);
  } catch (cause) {
    throw peerError(peer, { code: 'refused' }, cause);
  }
}

function replyOf<Q, R>(kind: TreeCall<Q, R>, peer: PeerId, message: TreeMessage): R {
  if (message.type === TREE.OK) return kind.reply.decode(message.body);
  if (message.type === TREE.ERROR) {
    const error = decodeTreeError(message.body);
    throw peerError(peer, error.code === 'cancelled' ? { code: 'refused' } : detailOf(error));
  }
  throw new WireError(`a reply has type ${message.type}`, { code: 'type', type: message.type });
}

/** The answering side. */
export class TreeResponder {
  readonly #components: {
    readonly clock: Clock;
    readonly logger: Logger;
    readonly metrics: NetMetrics;
    readonly server: TreeServer | undefined;
  };
  readonly #stopping = new AbortController();

  /** Without a server every call is refused. */
  constructor(components: {
    readonly clock: Clock;
    readonly logger: Logger;
    readonly metrics: NetMetrics;
    readonly server: TreeServer | undefined;
  }) {
    this.#components = components;
  }

  /** Answers the call on a new stream. Never rejects. */
  async serve(peer: PeerId, stream: Stream): Promise<void> {
    const limit = deadline(this.#components.clock, TREE_CALL_MS_MAX, this.#stopping.signal);
    const onAbort = (): void => stream.abort(limit.signal.reason as Error);
    limit.signal.addEventListener('abort', onAbort, { once: true });
    try {
      const duplex = messageStreamToDuplex(stream);
      const answered = pipe(duplex, (source) => this.#reply(peer, source), duplex);
      await unlessAborted(answered, limit.signal);
    } catch (error) {
      if (error instanceof WireError) this.#components.metrics.violations.inc({ protocol: 'tree' });
      this.#components.logger.debug({ peer, error: errorText(error) }, 'a tree call broke off');
      stream.abort(error as Error);
    } finally {
      limit.clear();
    }
  }

  stop(): void {
    this.#stopping.abort(new Error('the transport stops'));
  }

  async *#reply(
    peer: PeerId,
    source: AsyncIterable<Iterable<Uint8Array> | Uint8Array>,
  ): AsyncGenerator<Uint8Array> {
    const message = await collectMessage(source);
    yield* messageChunks(await this.#answer(peer, message));
  }

  async #answer(peer: PeerId, message: TreeMessage): Promise<TreeMessage> {
    const { server, logger } = this.#components;
    const run = server === undefined ? undefined : dispatch(server, peer, message);
    if (run === undefined) return errorReply({ code: 'refused' });
    try {
      return { type: TREE.OK, body: await run() };
    } catch (error) {
      logger.debug({ peer, type: message.type, error: errorText(error) }, 'a tree call failed');
      return errorReply(failureOf(error));
    }
  }
}

function errorReply(detail: PeerErrorDetail): TreeMessage {
  return { type: TREE.ERROR, body: encodeTreeError(errorFrameOf(detail)) };
}

/** Decodes the request at once, throwing WireError; the call itself follows. Undefined for an unknown call. */
function dispatch(
  server: TreeServer,
  peer: PeerId,
  { type, body }: TreeMessage,
): (() => Promise<Uint8Array>) | undefined {
  const bind = <Q, R>(
    kind: TreeCall<Q, R>,
    handle: (peer: PeerId, request: Q) => Promise<R>,
  ): (() => Promise<Uint8Array>) => {
    const request = kind.request.decode(body);
    return async () => kind.reply.encode(await handle(peer, request));
  };
  switch (type) {
    case TREE.JOIN:
      return bind(JOIN, server.onJoin.bind(server));
    case TREE.LEAVE:
      return bind(LEAVE, server.onLeave.bind(server));
    case TREE.REPORT:
      return bind(REPORT, server.onReport.bind(server));
    case TREE.RESOLVE:
      return bind(RESOLVE, server.onResolve.bind(server));
    case TREE.STAT:
      return bind(STAT, server.onStat.bind(server));
    default:
      return undefined;
  }
}

/** What the asker is told of an error of the server: a code that it can act on, never the text. */
function failureOf(error: unknown): PeerErrorDetail {
  if (error instanceof PeerError) return error.detail;
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  if (code === 'full') return { code: 'overloaded', retryAfterMs: OVERLOADED_RETRY_MS };
  return { code: code === 'not-found' ? 'not-found' : 'refused' };
}
