import type { Connection } from '@libp2p/interface';
import type { Clock } from '../../runtime/clock.ts';
import { PeerError, type PeerErrorDetail, peerError } from '../../transfer/contracts/transport.ts';
import type { HostAddress } from '../../tree/messages.ts';
import { errorText } from '../../util/errors.ts';
import { Limiter } from '../../util/limiter.ts';
import { orAbort } from '../../util/or-abort.ts';
import type { PeerId } from '../../util/peer-id.ts';
import { DeadlineError, deadline } from '../../runtime/deadline.ts';
import { WireError } from '../wire/errors.ts';
import { detailOf } from '../wire/frames.ts';
import {
  CALLS_PER_REGISTRY_MAX,
  MEMORY_CALLS_MAX,
  OVERLOADED_RETRY_MS,
  REQUESTS_QUEUED_MAX,
  TREE_CALL_MS_MAX,
} from '../limits.ts';
import type { NetMetrics } from '../metrics.ts';
import { SilentError, TreeLink } from './call-link.ts';
import { TREE, treeError, type TreeMessage } from './call-message.ts';
import { CALLS, type Calls } from './call-table.ts';

/** Calls to one peer that it answers from memory, and calls that may wait for one registry. */
const MEMORY_LIMITS = { runningMax: MEMORY_CALLS_MAX, waitingMax: REQUESTS_QUEUED_MAX };
const REGISTRY_LIMITS = { runningMax: CALLS_PER_REGISTRY_MAX, waitingMax: REQUESTS_QUEUED_MAX };

interface Components {
  readonly clock: Clock;
  readonly metrics: NetMetrics;
  readonly connect: (host: HostAddress, signal: AbortSignal) => Promise<Connection>;
  /** The peer shows no sign of life while a call waits for it. */
  readonly onSilent: (peer: PeerId) => void;
}

/**
 * The asking side: a stream for each peer that is called, opened with the first call and kept.
 * Calls that the peer answers from memory wait in one line, those that may wait for a registry in
 * one for each registry: eight of a line are in flight at a time, including calls that their caller
 * gave up, until the peer answers them.
 */
export class TreeClient {
  readonly #components: Components;
  readonly #links = new Map<PeerId, Promise<TreeLink>>();
  /** By peer and line. */
  readonly #lines = new Map<string, { readonly limiter: Limiter; users: number }>();
  readonly #stopping = new AbortController();

  constructor(components: Components) {
    this.#components = components;
  }

  /** Asks the host. Rejects with PeerError, `cancelled` when the signal aborted. */
  async call<K extends keyof Calls>(
    host: HostAddress,
    name: K,
    request: Calls[K][0],
    signal: AbortSignal,
  ): Promise<Calls[K][1]> {
    const limit = deadline(this.#components.clock, TREE_CALL_MS_MAX, {
      signal,
      stopped: this.#stopping.signal,
    });
    let reached = false;
    try {
      const body = encoded(name, host.peer, request);
      const registry = CALLS[name].registryOf?.(request);
      const asked = this.#inLine(host.peer, registry, async () => {
        limit.signal.throwIfAborted();
        const link = await orAbort(this.#linkTo(host), limit.signal);
        reached = true;
        return this.#ask(link, { host, name, body }, limit.signal);
      });
      const reply = await orAbort(asked, limit.signal);
      this.#count(name, 'ok');
      return reply;
    } catch (error) {
      const cause: unknown = limit.signal.aborted ? limit.signal.reason : error;
      const detail = causeOf(cause, { signal, reached });
      this.#count(name, detail.code);
      throw cause instanceof PeerError ? cause : peerError(host.peer, detail, cause);
    } finally {
      limit.clear();
    }
  }

  /**
   * Opens the stream to a host that will be called, if it can: the first call is then as cheap as
   * the others. Never rejects.
   */
  async prepare(host: HostAddress): Promise<void> {
    // The call that needs the stream reports the failure.
    await this.#linkTo(host).catch(() => {});
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

  async #ask<K extends keyof Calls>(
    link: TreeLink,
    call: { readonly host: HostAddress; readonly name: K; readonly body: Uint8Array },
    signal: AbortSignal,
  ): Promise<Calls[K][1]> {
    signal.throwIfAborted();
    const { host, name, body } = call;
    const { type } = CALLS[name];
    return link.call({ type, body }, (reply) => replyOf(name, host.peer, reply), signal);
  }

  /** The open stream, or a new one that all concurrent callers share. */
  #linkTo(host: HostAddress): Promise<TreeLink> {
    const known = this.#links.get(host.peer);
    if (known !== undefined) return known;
    const forget = (error: unknown): void => {
      if (error instanceof SilentError) this.#components.onSilent(host.peer);
      if (this.#links.get(host.peer) === link) this.#links.delete(host.peer);
    };
    const link = this.#open(host, forget);
    this.#links.set(host.peer, link);
    link.catch(forget);
    return link;
  }

  async #open(host: HostAddress, onClosed: (error: Error) => void): Promise<TreeLink> {
    const { signal } = this.#stopping;
    const connection = await this.#components.connect(host, signal);
    const link = await TreeLink.open(this.#components, { connection, onClosed, signal });
    if (signal.aborted) link.close(signal.reason as Error);
    return link;
  }

  /** Keeps at most as many calls in flight as the peer takes. */
  async #inLine<T>(peer: PeerId, registry: string | undefined, run: () => Promise<T>): Promise<T> {
    const name = registry === undefined ? peer : `${peer} ${registry}`;
    const limits = registry === undefined ? MEMORY_LIMITS : REGISTRY_LIMITS;
    const entry = this.#lines.get(name) ?? { limiter: new Limiter(limits), users: 0 };
    this.#lines.set(name, entry);
    entry.users++;
    try {
      const result = entry.limiter.run(run);
      if (result === undefined) {
        throw peerError(peer, { code: 'overloaded', retryAfterMs: OVERLOADED_RETRY_MS });
      }
      return await result;
    } finally {
      if (--entry.users === 0) this.#lines.delete(name);
    }
  }

  #count(call: keyof Calls, outcome: string): void {
    this.#components.metrics.treeCalls.inc({ call, outcome });
  }
}

/**
 * `reached`: the call had a stream to the peer; without one, a deadline that passes is no
 * connection in time.
 */
function causeOf(
  cause: unknown,
  { signal, reached }: { readonly signal: AbortSignal; readonly reached: boolean },
): PeerErrorDetail {
  if (cause instanceof PeerError) return cause.detail;
  if (cause instanceof WireError) return { code: 'protocol' };
  if (signal.aborted && signal.reason instanceof DeadlineError && !reached) {
    return { code: 'unreachable' };
  }
  if (signal.aborted) return { code: 'cancelled' };
  if (cause instanceof DeadlineError || cause instanceof SilentError) return { code: 'timeout' };
  return { code: 'unreachable' };
}

/** A request that breaks a bound of the protocol is refused here, before the peer does. */
function encoded<K extends keyof Calls>(name: K, peer: PeerId, request: Calls[K][0]): Uint8Array {
  try {
    return CALLS[name].request.encode(request);
  } catch (cause) {
    const text = `${name} to peer ${peer} was not sent: ${errorText(cause)}`;
    throw new PeerError(text, { code: 'refused' }, { cause });
  }
}

function replyOf<K extends keyof Calls>(
  name: K,
  peer: PeerId,
  { type, body }: TreeMessage,
): Calls[K][1] {
  if (type === TREE.OK) return CALLS[name].reply.decode(body);
  if (type === TREE.ERROR) {
    const error = treeError.decode(body);
    throw peerError(peer, error.code === 'cancelled' ? { code: 'refused' } : detailOf(error));
  }
  throw new WireError(`a reply has type ${type}`, { code: 'type', type });
}
