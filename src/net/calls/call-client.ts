import type { Connection } from '@libp2p/interface';
import type { Clock } from '../../runtime/clock.ts';
import type { PreheatServer } from '../../preheat/messages.ts';
import {
  PeerError,
  type PeerErrorDetail,
  type TreeServer,
  peerError,
} from '../../transfer/contracts/transport.ts';
import type { HostAddress } from '../../tree/messages.ts';
import { Limiter } from '../../util/limiter.ts';
import { orAbort } from '../../util/or-abort.ts';
import type { PeerId } from '../../util/peer-id.ts';
import { DeadlineError, deadline } from '../../runtime/deadline.ts';
import { WireError } from '../wire/errors.ts';
import { detailOf } from '../wire/frames.ts';
import {
  OVERLOADED_RETRY_MS,
  REQUESTS_QUEUED_MAX,
  TREE_CALLS_MAX,
  TREE_CALL_MS_MAX,
} from '../limits.ts';
import type { NetMetrics } from '../metrics.ts';
import * as preheat from './preheat-codec.ts';
import * as codec from './tree-codec.ts';
import { TreeLink } from './call-link.ts';
import { TREE, decodeTreeError, type TreeMessage } from './call-message.ts';

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
export const MANIFEST = {
  name: 'manifest',
  type: TREE.MANIFEST,
  request: codec.manifestRequest,
  reply: codec.manifestReply,
};

export const PREHEAT = {
  name: 'preheat',
  type: TREE.PREHEAT,
  request: preheat.preheatRequest,
  reply: preheat.preheatReply,
};
/** The one call that a host answers which keeps no trees. */
export const HOST_PREHEAT = {
  name: 'host-preheat',
  type: TREE.HOST_PREHEAT,
  request: preheat.hostPreheatRequest,
  reply: preheat.hostPreheatReply,
};

/** Who answers calls; a call without its server is refused. */
export interface CallServers {
  readonly tree?: TreeServer;
  readonly preheat?: PreheatServer;
}

interface Components {
  readonly clock: Clock;
  readonly metrics: NetMetrics;
  readonly connect: (host: HostAddress, signal: AbortSignal) => Promise<Connection>;
}

/**
 * The asking side: a stream for each peer that is called, opened with the first call and kept. Eight calls to a peer are under way at a
 * time, one that its caller gave up among them until the peer has said its last word.
 */
export class TreeClient {
  readonly #components: Components;
  readonly #links = new Map<PeerId, Promise<TreeLink>>();
  readonly #limiters = new Map<PeerId, { readonly limiter: Limiter; users: number }>();
  readonly #stopping = new AbortController();

  constructor(components: Components) {
    this.#components = components;
  }

  /** Asks the host. Rejects with PeerError, `cancelled` when the signal aborted. */
  async call<Q, R>(
    kind: TreeCall<Q, R>,
    host: HostAddress,
    request: Q,
    signal: AbortSignal,
  ): Promise<R> {
    const limit = deadline(this.#components.clock, TREE_CALL_MS_MAX, {
      signal: AbortSignal.any([signal, this.#stopping.signal]),
    });
    try {
      const body = encoded(kind, host.peer, request);
      const asked = this.#limited(host.peer, () => this.#ask(kind, host, body, limit.signal));
      const reply = await orAbort(asked, limit.signal);
      this.#count(kind, 'ok');
      return reply;
    } catch (error) {
      const cause: unknown = limit.signal.aborted ? limit.signal.reason : error;
      const detail = this.#detailOf(cause, signal);
      this.#count(kind, detail.code);
      throw cause instanceof PeerError ? cause : peerError(host.peer, detail, cause);
    } finally {
      limit.clear();
    }
  }

  /** Opens the stream to a host that will be called, if it can: the first call is then as cheap as the others. Never rejects. */
  async prepare(host: HostAddress): Promise<void> {
    try {
      await this.#linkTo(host);
    } catch {
      // The call that needs it tells why.
    }
  }

  stop(): void {
    const error = new Error('the transport stops');
    this.#stopping.abort(error);
    for (const link of this.#links.values()) {
      void link.then(
        (open) => open.close(error),
        () => {},
      );
    }
  }

  async #ask<Q, R>(
    kind: TreeCall<Q, R>,
    host: HostAddress,
    body: Uint8Array,
    signal: AbortSignal,
  ): Promise<R> {
    signal.throwIfAborted();
    const link = await orAbort(this.#linkTo(host), signal);
    signal.throwIfAborted();
    return link.call({ type: kind.type, body }, (reply) => replyOf(kind, host.peer, reply), signal);
  }

  /** The stream that is open, or a new one: one for all that ask at the same time. */
  #linkTo(host: HostAddress): Promise<TreeLink> {
    const known = this.#links.get(host.peer);
    if (known !== undefined) return known;
    const forget = (): void => {
      if (this.#links.get(host.peer) === link) this.#links.delete(host.peer);
    };
    const link = this.#open(host, forget);
    this.#links.set(host.peer, link);
    link.catch(forget);
    return link;
  }

  async #open(host: HostAddress, onClosed: () => void): Promise<TreeLink> {
    const { signal } = this.#stopping;
    const connection = await this.#components.connect(host, signal);
    const link = await TreeLink.open(this.#components, { connection, onClosed, signal });
    if (signal.aborted) link.close(signal.reason as Error);
    return link;
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
