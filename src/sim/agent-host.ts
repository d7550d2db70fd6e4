import type { Random } from '../runtime/random.ts';
import type { ReadKind } from '../transfer/contracts/blob-reader.ts';
import type { Digest } from '../image/digest.ts';
import { SimOpener, type OpenerHost, type OpenWish } from './opener.ts';
import type { AttemptId } from '../transfer/core/effects.ts';
import { HostCore, type HostCoreInit, type HostEffect } from '../transfer/host/host-core.ts';
import type { PeerErrorDetail } from '../transfer/contracts/transport.ts';
import { TreeError } from '../tree/errors.ts';
import type { JoinReply, JoinRequest } from '../tree/messages.ts';
import { defined, unreachable } from '../util/assert.ts';
import {
  asLocal,
  asPeer,
  costOf,
  incomingKey,
  type AgentListener,
  type AgentWorld,
  type Ask,
  type Lie,
} from './agent-world.ts';
import type { SimBlock } from './blocks.ts';
import * as costs from './costs.ts';
import type {
  Body,
  Delivery,
  HostNumber,
  Item,
  LocalToken,
  PeerToken,
  TreeAnswer,
} from './events.ts';
import type { Port } from './network.ts';
import { CALL_MS_MAX, SimCalls } from './tree-calls.ts';
import type { SimStore } from './store.ts';
import type { SimBlob } from './workload.ts';

/** Longest wait of a local read: the wait of the device and of overlaybd. */
const READ_TIMEOUT_MS = 30_000;

/** A mute liar sends ALIVE at this interval, at most `MUTE_ALIVE_COUNT` times per request. */
const MUTE_ALIVE_MS = 100;
const MUTE_ALIVE_COUNT = 50;

/**
 * An agent of the simulated world: the production reducer, and a driver that carries out its
 * effects on the world's network, store and registry. One thread: later work waits.
 *
 * Fault model: it sends wrong bytes, answers every request with "not found", or sends ALIVE and
 * never answers; its own reads go on. Its clock differs from the others, and jumps forward.
 */
export class AgentHost {
  readonly #world: AgentWorld;
  readonly #port: Port;
  readonly #store: SimStore;
  readonly #core: HostCore<SimBlock, LocalToken | PeerToken>;
  readonly #opener: SimOpener;
  readonly #listener: AgentListener;
  readonly #asked = new Map<AttemptId, Ask>();
  readonly #originAsked = new Map<AttemptId, SimBlock>();
  readonly #incoming = new Map<number, PeerToken>();
  readonly #calls: SimCalls;
  #inbox: Item[] = [];
  #inboxNext = 0;
  #running = false;
  #wakeMs = Number.POSITIVE_INFINITY;
  #tickMs = Number.POSITIVE_INFINITY;
  /** World time of the step in which the opener works. */
  #openingMs = 0;
  /** Milliseconds by which this agent's clock is ahead of the world's. */
  clockAheadMs: number;
  lie: Lie | undefined;

  constructor(
    components: {
      world: AgentWorld;
      port: Port;
      store: SimStore;
      listener: AgentListener;
      random: Random;
    },
    init: { core: HostCoreInit; clockAheadMs: number },
  ) {
    const { world, port, store, random } = components;
    this.#world = world;
    this.#port = port;
    this.#store = store;
    this.#listener = components.listener;
    this.clockAheadMs = init.clockAheadMs;
    this.#core = new HostCore<SimBlock, LocalToken | PeerToken>(
      {
        ops: { length: (block) => block.lengthBytes, retain: () => {}, release: () => {} },
        random,
        held: (digest, index) => store.has(digest, index),
        blocksOf: (digest) => store.blocksOf(digest),
      },
      init.core,
    );
    this.#calls = new SimCalls({ world, port, core: this.#core, listener: this.#listener });
    this.#opener = new SimOpener({ host: this.#openerHost(), world }, init.core);
  }

  get core(): HostCore<SimBlock, LocalToken | PeerToken> {
    return this.#core;
  }

  /** Gives the agent something to do; the agent does it now if its thread is free. */
  post(item: Item, nowMs: number): void {
    const free = this.#inbox.length === 0 && this.#port.processors.agentFreeMs <= nowMs;
    if (free && !this.#running) this.#run(item, nowMs);
    else this.#inbox.push(item);
    this.#arm(nowMs);
  }

  /** Resumes the inbox; called when the thread may be free. */
  onFree(nowMs: number): void {
    if (nowMs < this.#wakeMs) return;
    this.#wakeMs = Number.POSITIVE_INFINITY;
    while (this.#inboxNext < this.#inbox.length && this.#port.processors.agentFreeMs <= nowMs) {
      this.#run(this.#inbox[this.#inboxNext++] as Item, nowMs);
    }
    if (this.#inboxNext === this.#inbox.length) {
      this.#inbox = [];
      this.#inboxNext = 0;
    }
    this.#arm(nowMs);
  }

  /** Ticks the reducer; called when one of its timers may be due. */
  onTick(nowMs: number): void {
    if (nowMs < this.#tickMs) return;
    // Until the thread gets to this tick, no other tick is due.
    this.#tickMs = Number.NEGATIVE_INFINITY;
    this.post({ kind: 'tick' }, nowMs);
  }

  /** Blocks that this agent is asking the peer for now. */
  askedOf(peer: HostNumber): readonly SimBlock[] {
    const blocks: SimBlock[] = [];
    for (const { to, block } of this.#asked.values()) if (to === peer) blocks.push(block);
    return blocks;
  }

  /** Forgets its requests: the host went down. */
  crash(): void {
    for (const attempt of [...this.#asked.keys(), ...this.#originAsked.keys()])
      this.#unask(attempt);
  }

  #arm(nowMs: number): void {
    const freeMs = Math.max(nowMs, this.#port.processors.agentFreeMs);
    if (this.#inbox.length > 0 && freeMs < this.#wakeMs) {
      this.#wakeMs = freeMs;
      this.#world.events.push(freeMs, { type: 'agent', host: this.#port.number });
    }
    const dues = [this.#core.nextWakeMs, this.#opener.nextWakeMs];
    const dueMs = Math.min(...dues.map((ms) => ms ?? Number.POSITIVE_INFINITY));
    if (dueMs === Number.POSITIVE_INFINITY) return;
    // One nanosecond more, so that rounding never brings the reducer a time in its own past.
    const tickMs = Math.max(nowMs, dueMs - this.clockAheadMs + 1e-6);
    if (tickMs >= this.#tickMs) return;
    this.#tickMs = tickMs;
    this.#world.events.push(tickMs, { type: 'tick', host: this.#port.number });
  }

  #run(item: Item, nowMs: number): void {
    this.#running = true;
    this.#spend(costOf(item), nowMs);
    this.#handle(item, nowMs);
    for (let effects = this.#core.take(); effects.length > 0; effects = this.#core.take()) {
      for (const effect of effects) this.#carryOut(effect, nowMs);
    }
    this.#running = false;
  }

  #spend(costMs: number, nowMs: number): void {
    if (costMs > 0) this.#port.processors.runAgent(nowMs, costMs);
  }

  /** Earliest time at which a message of the agent's current work can leave. */
  #doneMs(nowMs: number): number {
    return Math.max(nowMs, this.#port.processors.agentFreeMs);
  }

  #handle(item: Item, nowMs: number): void {
    const localMs = nowMs + this.clockAheadMs;
    const { blocks } = this.#core;
    switch (item.kind) {
      case 'message':
        return this.#onMessage(item.delivery, nowMs);
      case 'sent':
        return blocks.sent(item.token, this.#world.peerOf(item.token.from), localMs);
      case 'gone':
        return this.#onGone(item.peer, localMs);
      case 'undelivered':
        return this.#onUndelivered(item.body, localMs);
      case 'read':
        return this.#wish(item.token, nowMs);
      case 'stored': {
        const { blob, index } = item.block;
        const found = item.found ? item.block : undefined;
        return blocks.diskRead(blob.digest, index, found, localMs);
      }
      case 'written':
        this.#store.written(item.lengthBytes);
        return blocks.written(item.lengthBytes, localMs);
      case 'origin':
        return this.#onOrigin(item, localMs);
      case 'want':
        return this.#want(item.blobs, nowMs);
      case 'stat':
        this.#openingMs = nowMs;
        return this.#opener.statDone(item.digest, item.id, item.ok, localMs);
      case 'open-late':
        this.#openingMs = nowMs;
        return this.#opener.rootFailed(item.id, localMs);
      case 'orders':
        for (const order of item.orders) blocks.order(order, localMs);
        return;
      case 'call-late':
        return this.#calls.failed(item.id, localMs, item.failure);
      case 'mute':
        return this.#sayAlive(item.token, item.left, nowMs);
      case 'tick':
        this.#tickMs = Number.POSITIVE_INFINITY;
        this.#openingMs = nowMs;
        this.#opener.tick(localMs);
        return this.#core.tick(localMs);
      default:
        return unreachable(item);
    }
  }

  /** What a client asks for: the device reads blocks at once, others name a blob by its URL. */
  #wish(wish: OpenWish, nowMs: number): void {
    const localMs = nowMs + this.clockAheadMs;
    this.#openingMs = nowMs;
    if (this.#world.opens) this.#opener.wish(wish, localMs);
    else if (wish.kind === 'local') this.#read(wish, localMs);
  }

  #want(blobs: readonly SimBlob[], nowMs: number): void {
    if (this.#world.opens) {
      for (const blob of blobs) this.#wish({ kind: 'blob', blob }, nowMs);
      return;
    }
    const origin = this.#world.originName;
    this.#core.want(
      blobs.map((blob) => ({ blob, origin })),
      nowMs + this.clockAheadMs,
    );
  }

  #openerHost(): OpenerHost {
    const localMs = (): number => this.#openingMs + this.clockAheadMs;
    return {
      askRoot: (id, root, digest) => this.#askOpen(id, this.#world.numberOf(root), digest),
      stat: (digest, id) =>
        this.#world.registry.stat(this.#port, { digest, id }, this.#doneMs(this.#openingMs)),
      tell: (to, id, answer) => this.#reply(to, { kind: 'opened', id, answer }, this.#openingMs),
      join: (blob, isShared) => {
        const { blocks } = this.#core;
        if (isShared) this.#core.want([{ blob, origin: this.#world.originName }], localMs());
        else blocks.hold(blob);
      },
      leave: ({ digest }) => this.#core.unwant([digest], localMs()),
      read: (token) => this.#read(token, localMs()),
      refuse: (token) => this.#listener.failed(token, 'unchecked', this.#doneMs(this.#openingMs)),
    };
  }

  #askOpen(id: number, to: HostNumber, digest: Digest): void {
    const { number: from, links } = this.#port;
    this.#spend(costs.MESSAGE_MS / 2, this.#openingMs);
    const atMs = this.#doneMs(this.#openingMs);
    const lateMs = CALL_MS_MAX[links.has(to) ? 'silent' : 'failed'];
    this.#world.network.send({ from, to, atMs }, { kind: 'open', id, digest });
    this.#later(atMs + lateMs, { kind: 'open-late', id });
  }

  #read(token: LocalToken, localMs: number): void {
    const { blob, index } = token.block;
    const { digest } = blob;
    const read = { token, digest, index, kind: token.readKind, timeoutMs: READ_TIMEOUT_MS };
    this.#core.blocks.read(read, localMs);
  }

  #onMessage({ body, from, link }: Delivery, nowMs: number): void {
    const localMs = nowMs + this.clockAheadMs;
    const peer = this.#world.peerOf(from);
    const { blocks } = this.#core;
    switch (body.kind) {
      case 'ask': {
        const token: PeerToken = { kind: 'peer', from, link, attempt: body.attempt };
        if (this.lie === 'mute') return this.#sayAlive(token, MUTE_ALIVE_COUNT, nowMs);
        if (this.lie === 'not-found') return this.#refuse(token, { code: 'not-found' }, nowMs);
        this.#incoming.set(incomingKey(from, body.attempt), token);
        return blocks.readForPeer(token, peer, body.request, localMs);
      }
      case 'block':
        this.#unask(body.attempt);
        return blocks.received(body.attempt, body.block, localMs);
      case 'refuse':
        this.#unask(body.attempt);
        return blocks.failed(body.attempt, body.detail, localMs);
      case 'promote': {
        const token = this.#incoming.get(incomingKey(from, body.attempt));
        return token === undefined ? undefined : blocks.promote(token, localMs);
      }
      case 'cancel': {
        const token = this.#takeIncoming(from, body.attempt);
        return token === undefined ? undefined : blocks.cancelForPeer(token, peer, localMs);
      }
      case 'alive':
        return blocks.alive(peer, localMs);
      case 'order':
        return this.#core.orderFrom(peer, body.order, localMs);
      case 'open':
        this.#openingMs = nowMs;
        return this.#opener.asked(from, body.id, body.digest);
      case 'opened':
        this.#openingMs = nowMs;
        return this.#opener.answered(body.id, body.answer, localMs);
      case 'call':
        return this.#onCall(body, from, nowMs);
      case 'result':
        return this.#calls.answered(body.id, body.answer, { nowMs, localMs });
      default:
        return unreachable(body);
    }
  }

  #onCall({ id, call }: Extract<Body, { kind: 'call' }>, from: HostNumber, nowMs: number): void {
    const localMs = nowMs + this.clockAheadMs;
    const peer = this.#world.peerOf(from);
    const answer = ((): TreeAnswer => {
      try {
        switch (call.kind) {
          case 'join':
            return { type: 'join', reply: this.#join(from, call.request, localMs) };
          case 'report':
            return { type: 'report', reply: this.#core.report(peer, call.request, localMs) };
          case 'leave':
            this.#core.leave(peer, call.request, localMs);
            return { type: 'leave' };
          default:
            return unreachable(call);
        }
      } catch (error) {
        if (error instanceof TreeError) return { type: 'refused' };
        throw error;
      }
    })();
    this.#reply(from, { kind: 'result', id, answer }, nowMs);
  }

  #join(from: HostNumber, request: JoinRequest, localMs: number): JoinReply {
    const { peerOf, planted } = this.#world;
    const reply = this.#core.join(peerOf(from), request, localMs);
    if (planted !== 'cycle') return reply;
    const self = { peer: peerOf(from), addresses: [] };
    const places = reply.places.map((place) => ({ ...place, path: [self, ...place.path] }));
    return { ...reply, places };
  }

  #onOrigin(item: Extract<Item, { kind: 'origin' }>, localMs: number): void {
    const { attempt, block, detail } = item;
    this.#unask(attempt);
    if (block !== undefined) this.#core.blocks.received(attempt, block, localMs);
    else this.#core.blocks.failed(attempt, defined(detail, 'an answer or a failure'), localMs);
  }

  #onGone(host: HostNumber, localMs: number): void {
    for (const [key, token] of this.#incoming) {
      if (token.from === host && token.link.state === 'closed') this.#incoming.delete(key);
    }
    const peer = this.#world.peerOf(host);
    this.#calls.gone(peer, localMs);
    for (const [attempt, ask] of [...this.#asked]) {
      if (ask.to !== host) continue;
      this.#unask(attempt);
      this.#core.blocks.failed(attempt, { code: 'unreachable' }, localMs);
    }
    this.#core.peerGone(peer, localMs);
  }

  #onUndelivered(body: Body, localMs: number): void {
    if (body.kind === 'ask') {
      this.#unask(body.attempt);
      this.#core.blocks.failed(body.attempt, { code: 'unreachable' }, localMs);
    } else if (body.kind === 'call') {
      this.#calls.failed(body.id, localMs, 'failed');
    } else if (body.kind === 'open') {
      this.#opener.rootFailed(body.id, localMs);
    }
  }

  #carryOut(effect: HostEffect<SimBlock, LocalToken | PeerToken>, nowMs: number): void {
    const { checker } = this.#world;
    const { number } = this.#port;
    switch (effect.type) {
      case 'answer':
        return this.#listener.answered(asLocal(effect.token), effect.block, this.#doneMs(nowMs));
      case 'fail': {
        const { code } = effect.detail;
        return this.#listener.failed(asLocal(effect.token), code, this.#doneMs(nowMs));
      }
      case 'send':
        return this.#send(asPeer(effect.token), effect.block, nowMs);
      case 'refuse':
        return this.#refuse(asPeer(effect.token), effect.detail, nowMs);
      case 'disk-read':
        return this.#diskRead(this.#blockOf(effect), nowMs);
      case 'disk-write':
        checker.accepted(number, effect.block, 'stored');
        return this.#diskWrite(effect.block, effect.kind, nowMs);
      case 'ask':
        return this.#ask(effect, this.#world.numberOf(effect.host.peer), nowMs);
      case 'ask-origin':
        return this.#askOrigin(effect, nowMs);
      case 'promote':
        return this.#tell(effect.attempt, 'promote', nowMs);
      case 'cancel':
        this.#tell(effect.attempt, 'cancel', nowMs);
        return this.#unask(effect.attempt);
      case 'verify': {
        const hashMs = effect.block.lengthBytes * costs.HASH_MS_PER_BYTE + costs.SIGNATURE_MS;
        this.#spend(hashMs, nowMs);
        const { attempt, block } = effect;
        const isTaken = block.genuine || this.#world.planted === 'unverified';
        const verdict = isTaken ? 'good' : 'bad';
        return this.#core.blocks.verified(attempt, verdict, nowMs + this.clockAheadMs);
      }
      case 'alive':
        return this.#reply(this.#world.numberOf(effect.peer), { kind: 'alive' }, nowMs);
      case 'order': {
        const { peer, order } = effect;
        return this.#reply(this.#world.numberOf(peer), { kind: 'order', order }, nowMs);
      }
      case 'tree':
        return this.#calls.make(effect.effect, this.#doneMs(nowMs));
      case 'fetched':
      case 'lost':
      case 'forgot':
        return;
      default:
        return unreachable(effect);
    }
  }

  #blockOf({ blob, index }: Pick<SimBlock, 'index'> & { blob: { digest: Digest } }): SimBlock {
    const { library } = this.#world;
    return library.block(library.blob(blob.digest), index);
  }

  #ask(
    effect: Extract<HostEffect<SimBlock, PeerToken>, { type: 'ask' }>,
    to: HostNumber,
    nowMs: number,
  ): void {
    const { attempt, request } = effect;
    const { checker, network } = this.#world;
    const block = this.#blockOf({ blob: request, index: request.index });
    this.#asked.set(attempt, { to, block });
    checker.asks(this.#port.number, block, to);
    this.#spend(costs.MESSAGE_MS / 2, nowMs);
    const from = this.#port.number;
    network.send({ from, to, atMs: this.#doneMs(nowMs) }, { kind: 'ask', attempt, request });
  }

  #askOrigin(
    effect: Extract<HostEffect<SimBlock, PeerToken>, { type: 'ask-origin' }>,
    nowMs: number,
  ): void {
    const block = this.#blockOf(effect);
    const { attempt, source } = effect;
    this.#originAsked.set(attempt, block);
    this.#world.checker.asksOrigin(this.#port.number, block);
    this.#spend(costs.MESSAGE_MS / 2, nowMs);
    this.#world.registry.read(this.#port, { attempt, block, source }, this.#doneMs(nowMs));
  }

  /** Sends a message about a request in flight, unless the request is at the registry. */
  #tell(attempt: AttemptId, kind: 'promote' | 'cancel', nowMs: number): void {
    const ask = this.#asked.get(attempt);
    if (ask !== undefined) this.#reply(ask.to, { kind, attempt }, nowMs);
  }

  #unask(attempt: AttemptId): void {
    const { checker } = this.#world;
    const ask = this.#asked.get(attempt);
    if (ask !== undefined && this.#asked.delete(attempt)) {
      checker.asked(this.#port.number, ask.block, ask.to);
    }
    const block = this.#originAsked.get(attempt);
    if (block !== undefined && this.#originAsked.delete(attempt)) {
      checker.askedOrigin(this.#port.number, block);
    }
  }

  /** Sends on the existing connection. Without a connection, no peer waits for the message. */
  #reply(to: HostNumber, body: Body, nowMs: number): void {
    const { network } = this.#world;
    const from = this.#port.number;
    const link = this.#port.links.get(to);
    if (link === undefined) return;
    this.#spend(costs.MESSAGE_MS / 2, nowMs);
    network.send({ from, to, atMs: this.#doneMs(nowMs) }, body);
  }

  #refuse(token: PeerToken, detail: PeerErrorDetail, nowMs: number): void {
    this.#takeIncoming(token.from, token.attempt);
    if (token.link.state !== 'open') return;
    this.#reply(token.from, { kind: 'refuse', attempt: token.attempt, detail }, nowMs);
  }

  #send(token: PeerToken, block: SimBlock, nowMs: number): void {
    const { network, events, checker, library } = this.#world;
    checker.accepted(this.#port.number, block, 'sent');
    this.#takeIncoming(token.from, token.attempt);
    this.#spend(block.lengthBytes * costs.SEND_MS_PER_BYTE, nowMs);
    const atMs = this.#doneMs(nowMs);
    if (token.link.state !== 'open') {
      events.push(atMs, { type: 'sent', host: this.#port.number, token });
      return;
    }
    const sent = this.lie === 'corrupt' ? library.corrupt(block) : block;
    const route = { from: this.#port.number, to: token.from, atMs };
    network.send(route, { kind: 'block', attempt: token.attempt, block: sent }, token);
  }

  #diskRead(block: SimBlock, nowMs: number): void {
    const found = this.#store.has(block.blob.digest, block.index);
    this.#later(this.#store.readDoneMs(block, nowMs), { kind: 'stored', block, found });
  }

  #diskWrite(block: SimBlock, kind: ReadKind, nowMs: number): void {
    const { lengthBytes } = block;
    this.#port.processors.charge(nowMs, lengthBytes * costs.STORE_MS_PER_BYTE);
    const { doneMs, isRefused } = this.#store.put(block, nowMs);
    if (isRefused) this.#world.checker.unstored(this.#port.number, block, kind);
    this.#later(doneMs, { kind: 'written', lengthBytes });
  }

  #later(atMs: number, item: Item): void {
    const { number: host, incarnation } = this.#port;
    this.#world.events.push(atMs, { type: 'item', host, incarnation, item });
  }

  /** Sends ALIVE and never an answer. */
  #sayAlive(token: PeerToken, left: number, nowMs: number): void {
    if (left === 0 || token.link.state !== 'open') return;
    this.#reply(token.from, { kind: 'alive' }, nowMs);
    this.#later(nowMs + MUTE_ALIVE_MS, { kind: 'mute', token, left: left - 1 });
  }

  #takeIncoming(from: HostNumber, attempt: AttemptId): PeerToken | undefined {
    const key = incomingKey(from, attempt);
    const token = this.#incoming.get(key);
    this.#incoming.delete(key);
    return token;
  }
}
