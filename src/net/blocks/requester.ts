import type { Connection } from '@libp2p/interface';
import type { Clock } from '../../runtime/clock.ts';
import type {
  BlockRequest,
  BlockServer,
  PeerErrorDetail,
} from '../../transfer/contracts/transport.ts';
import type { HostAddress } from '../../tree/messages.ts';
import type { BufferPool } from '../../util/buffer-pool.ts';
import type { PeerId } from '../../util/peer-id.ts';
import { BlockCall } from './block-call.ts';
import { badValue, type WireError } from '../wire/errors.ts';
import { FRAME, detailOf, encodeIdFrame, encodeRequest, type ErrorFrame } from '../wire/frames.ts';
import {
  ABANDONED_MS_MAX,
  OVERLOADED_RETRY_MS,
  PREFETCHES_IN_FLIGHT_MAX,
  REQUESTS_IN_FLIGHT_MAX,
  REQUESTS_QUEUED_MAX,
} from '../limits.ts';
import type { NetMetrics } from '../metrics.ts';
import { RequesterLink, type LinkEvents } from './requester-link.ts';

/** Ids of one link; when they are used up the link is replaced. */
const REQUEST_ID_MAX = 2 ** 32 - 1;

/** What `Requester` uses. */
export interface RequesterComponents {
  readonly clock: Clock;
  readonly pool: BufferPool;
  readonly metrics: NetMetrics;
  readonly server: BlockServer;
  /** A connection to the host, made when there is none. Rejects when it cannot be had. */
  readonly connect: (host: HostAddress, signal: AbortSignal) => Promise<Connection>;
}

/**
 * Our block requests to one peer. They wait here, demand before prefetch, until the credit of the
 * link lets them go.
 *
 * Life: made with the first request -> connects when something waits -> `onUnused` when the link is
 * gone and nothing waits. A lost link fails everything: the caller has other sources, and asks
 * again if it wants this one.
 */
export class Requester {
  readonly #components: RequesterComponents;
  readonly #peer: PeerId;
  readonly #onUnused: () => void;
  readonly #stopping = new AbortController();
  readonly #queued = { demand: new Set<BlockCall>(), prefetch: new Set<BlockCall>() };
  readonly #inFlight = new Map<number, BlockCall>();
  #prefetches = 0;
  #nextId = 0;
  #link: RequesterLink | undefined;
  #connecting = false;

  constructor(
    components: RequesterComponents,
    init: { readonly peer: PeerId; readonly onUnused: () => void },
  ) {
    this.#components = components;
    this.#peer = init.peer;
    this.#onUnused = init.onUnused;
  }

  request(host: HostAddress, request: BlockRequest): BlockCall {
    const call = new BlockCall(this.#components, { owner: this, peer: this.#peer, request });
    if (this.#queued[call.kind].size >= REQUESTS_QUEUED_MAX) {
      call.reject({ code: 'overloaded', retryAfterMs: OVERLOADED_RETRY_MS });
      return call;
    }
    this.#queued[call.kind].add(call);
    this.#ensureLink(host);
    this.#pump();
    return call;
  }

  /** Fails everything with `unreachable`. */
  stop(): void {
    this.#stopping.abort(new Error('the transport stops'));
    this.#link?.close(new Error('the transport stops'));
    this.#failAll({ code: 'unreachable' });
  }

  onPromoted(call: BlockCall): void {
    if (this.#queued.prefetch.delete(call)) {
      this.#queued.demand.add(call);
      this.#pump();
    } else if (call.sent !== undefined) {
      this.#prefetches--;
      this.#link?.send(call.sent.lane, encodeIdFrame(FRAME.PROMOTE, call.sent.id));
      this.#pump();
    }
  }

  onGivenUp(call: BlockCall): void {
    if (this.#queued[call.kind].delete(call)) return this.#reportUnused();
    // One that is arriving already only has to be skipped.
    if (call.sent === undefined || call.arriving) return;
    this.#link?.send(call.sent.lane, encodeIdFrame(FRAME.CANCEL, call.sent.id));
  }

  #ensureLink(host: HostAddress): void {
    if (this.#link !== undefined || this.#connecting) return;
    this.#connecting = true;
    void this.#connect(host);
  }

  async #connect(host: HostAddress): Promise<void> {
    const { signal } = this.#stopping;
    try {
      const connection = await this.#components.connect(host, signal);
      const events = this.#events();
      const link = await RequesterLink.open(this.#components, { connection, events, signal });
      if (link.closed) throw new Error('a new block stream closed');
      this.#link = link;
    } catch (cause) {
      this.#connecting = false;
      return this.#failAll({ code: 'unreachable' }, cause);
    }
    this.#connecting = false;
    if (signal.aborted) return this.#link.close(new Error('the transport stops'));
    this.#pump();
    this.#reportUnused();
  }

  #events(): LinkEvents {
    return {
      onAnswerBegin: (id) => this.#onAnswerBegin(id),
      onAnswerEnd: (id, attestation, payload) => {
        const call = this.#take(id);
        if (payload === undefined) return;
        if (call.ended) payload.release();
        else call.resolve({ attestation, payload });
      },
      onError: (id, error) => this.#onError(id, error),
      onOrder: (order) => this.#components.server.onOrder(this.#peer, order),
      onAlive: () => this.#components.server.onAlive(this.#peer),
      isWaitedFor: () => this.#inFlight.size > 0,
      onCheck: () => this.#checkGivenUp(),
      onClosed: (violation) => this.#onClosed(violation),
    };
  }

  #pump(): void {
    const link = this.#link;
    if (link === undefined) return;
    while (this.#inFlight.size < REQUESTS_IN_FLIGHT_MAX) {
      const call = this.#nextQueued();
      if (call === undefined) return;
      if (this.#nextId > REQUEST_ID_MAX) {
        return link.close(new Error('the request ids of a link are used up'));
      }
      this.#send(link, call);
    }
  }

  /** Takes the next call out of its queue. */
  #nextQueued(): BlockCall | undefined {
    const queue =
      this.#queued.demand.size > 0 || this.#prefetches >= PREFETCHES_IN_FLIGHT_MAX
        ? this.#queued.demand
        : this.#queued.prefetch;
    const [call] = queue;
    if (call !== undefined) queue.delete(call);
    return call;
  }

  #send(link: RequesterLink, call: BlockCall): void {
    const id = this.#nextId++;
    const lane = call.kind === 'demand' ? 'demand' : 'bulk';
    call.sent = { id, lane };
    if (call.kind === 'prefetch') this.#prefetches++;
    this.#inFlight.set(id, call);
    if (this.#inFlight.size === 1) link.wake();
    const request = { ...call.request, kind: call.kind, timeoutMs: call.remainingMs };
    link.send(lane, encodeRequest(id, request));
  }

  #onAnswerBegin(id: number): boolean {
    const call = this.#inFlight.get(id);
    if (call === undefined || call.arriving) throw badValue('id', 'that of a request', id);
    call.arriving = true;
    return !call.ended;
  }

  #onError(id: number, error: ErrorFrame): void {
    const call = this.#inFlight.get(id);
    if (call === undefined || call.arriving) throw badValue('id', 'that of a request', id);
    this.#take(id);
    // A peer that cancels what we did not is shutting down.
    call.reject(error.code === 'cancelled' ? { code: 'not-found' } : detailOf(error));
    this.#reportUnused();
  }

  /** The peer has answered a request for good: its credit is free again. */
  #take(id: number): BlockCall {
    const call = this.#inFlight.get(id);
    if (call === undefined) throw badValue('id', 'that of a request', id);
    this.#inFlight.delete(id);
    if (call.kind === 'prefetch') this.#prefetches--;
    this.#pump();
    return call;
  }

  #checkGivenUp(): void {
    const nowMs = this.#components.clock.nowMs();
    for (const [id, { givenUpMs, arriving }] of this.#inFlight) {
      if (arriving || givenUpMs === undefined || nowMs < givenUpMs + ABANDONED_MS_MAX) continue;
      throw badValue('id', `answered within ${ABANDONED_MS_MAX} ms of its CANCEL`, id);
    }
  }

  #onClosed(violation: WireError | undefined): void {
    this.#link = undefined;
    this.#failAll({ code: violation === undefined ? 'unreachable' : 'protocol' }, violation);
  }

  #failAll(detail: PeerErrorDetail, cause?: unknown): void {
    const calls = [...this.#inFlight.values(), ...this.#queued.demand, ...this.#queued.prefetch];
    this.#inFlight.clear();
    this.#queued.demand.clear();
    this.#queued.prefetch.clear();
    this.#prefetches = 0;
    this.#nextId = 0;
    for (const call of calls) call.reject(detail, cause);
    this.#reportUnused();
  }

  #reportUnused(): void {
    const { demand, prefetch } = this.#queued;
    if (this.#link !== undefined || this.#connecting) return;
    if (demand.size === 0 && prefetch.size === 0) this.#onUnused();
  }
}
