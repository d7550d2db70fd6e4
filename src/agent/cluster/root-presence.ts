import { netMetrics } from '../../net/metrics.ts';
import type { Clock, Timer } from '../../runtime/clock.ts';
import { within } from '../../runtime/deadline.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { Gauge, Metrics } from '../../runtime/metrics.ts';
import { jitter, type Random } from '../../runtime/random.ts';
import type { Caller, TreeCalls } from '../../transfer/contracts/calls.ts';
import { PeerError } from '../../transfer/contracts/transport.ts';
import type { HostAddress, HostCard } from '../../tree/messages.ts';
import { ASKED_MAX, type HostName, type PresenceReply } from '../../tree/presence.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { toHex } from '../../util/bytes.ts';
import { errorText } from '../../util/errors.ts';
import { orAbort } from '../../util/or-abort.ts';
import type { PeerId } from '../../util/peer-id.ts';

/**
 * How soon after the roots became known a host shows itself: hosts that start together do not come
 * together.
 */
const FIRST_MS_MAX = 1_000;

/** How often it looks whether they still know it, half more or less; sooner while it must know. */
const INTERVAL_MS = 30_000;
const INTERVAL_MS_OPEN = 5_000;
const INTERVAL_MS_AWAY = 2_000;

/** How often it looks whether a connection has broken, or an interface has come or gone. */
const WATCH_MS = 1_000;

/** For a connection and its handshake, and for the answer. */
const DIAL_MS_MAX = 5_000;
const ANSWER_MS_MAX = 3_000;

/** For names that people wait for, and how often they are asked for. */
const LEARN_MS_MAX = 1_000;
const LEARN_AGAIN_MS = 10_000;

const NAMES_MAX = 4_096;
const RUN_BYTES = 16;

/** The parts of this host's card that change while it runs. */
export interface OwnCard extends HostCard {
  addresses: readonly string[];
  capacity: number;
}

interface Components {
  readonly transport: Caller<TreeCalls> & {
    peers(): readonly PeerId[];
    identify(address: string, signal: AbortSignal): Promise<PeerId>;
  };
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

interface Init {
  readonly card: OwnCard;
  /** What this host is called. */
  readonly name: string;
  /** Looks for interfaces that came or went, and changes the card; whether it did. */
  readonly refresh: () => Promise<boolean>;
  /** Children that a host which others reach may have. */
  readonly capacity: number;
  /** Peers whose names people may ask for. */
  readonly neighbours: () => readonly PeerId[];
  readonly onChange: () => void;
}

/** What is known of a root or relay. */
interface Seen {
  readonly reply?: PresenceReply;
  /** Why it does not answer. */
  readonly reason?: string;
}

/** A root or relay for people. */
export interface SeenRoot {
  readonly peer: PeerId;
  readonly address: string;
  readonly reason: string | undefined;
}

/**
 * Shows this host to each root, and each relay of its group, over a connection that is kept: so
 * roots know the hosts which have not opened any image yet, and the host knows which of them answer
 * and what they say of it.
 *
 * Life: constructed -> `setRoots()` whenever they change -> `stop()`.
 */
export class RootPresence {
  readonly #components: Components;
  readonly #init: Init;
  readonly #run: string;
  readonly #stop = new AbortController();
  readonly #names = new BoundedMap<PeerId, HostName>({ entriesMax: NAMES_MAX, evict: 'use' });
  /** When names that people wanted were asked for. */
  readonly #learntMs = new BoundedMap<PeerId, number>({ entriesMax: NAMES_MAX });
  readonly #seen = new Map<PeerId, Seen>();
  /** Roots that were silent since they last answered. */
  readonly #silent = new Set<PeerId>();
  readonly #warned = new Set<string>();
  readonly #answering: Gauge;
  #roots: readonly HostAddress[] = [];
  #rootIds: readonly PeerId[] = [];
  #timer: Timer | undefined;
  #dueMs = Number.POSITIVE_INFINITY;
  #looking = false;

  constructor(components: Components, init: Init) {
    this.#components = components;
    this.#init = init;
    this.#run = toHex(components.random.bytes(RUN_BYTES));
    this.#answering = netMetrics(components.metrics).rootsAnswering;
    this.#answering.set({}, 0);
  }

  /** The roots, and the relays that this host joins the trees at. */
  setRoots(roots: readonly HostAddress[], relays: readonly HostAddress[] = []): void {
    const { clock, random } = this.#components;
    const self = this.#init.card.peer;
    this.#rootIds = roots.map(({ peer }) => peer);
    this.#roots = [...roots, ...relays].filter(({ peer }) => peer !== self);
    const peers = new Set(this.#roots.map(({ peer }) => peer));
    for (const peer of [...this.#seen.keys()]) if (!peers.has(peer)) this.#seen.delete(peer);
    for (const peer of this.#silent) if (!peers.has(peer)) this.#silent.delete(peer);
    this.#dueMs = clock.nowMs() + FIRST_MS_MAX * random.float();
    this.#watchAfter(this.#dueMs - clock.nowMs());
  }

  stop(): void {
    this.#stop.abort();
    this.#timer?.cancel();
  }

  /** Whether each root and relay was asked and did not answer: to ask them for more is in vain. */
  get areAllAway(): boolean {
    const isAway = ({ peer }: HostAddress): boolean =>
      this.#silent.has(peer) || this.#seen.get(peer)?.reason !== undefined;
    return this.#roots.length > 0 && this.#roots.every(isAway);
  }

  /** The peer showed no sign of life to another part of this host: if it is a root, it is asked. */
  silent(peer: PeerId): void {
    if (!this.#roots.some((root) => root.peer === peer) || this.#silent.has(peer)) return;
    this.#silent.add(peer);
    this.#init.onChange();
    this.#dueMs = this.#components.clock.nowMs();
    if (!this.#looking) this.#watchAfter(0);
  }

  /** Why no root serves this host; undefined when one does. */
  notServed(): string | undefined {
    if (this.#roots.some(({ peer }) => this.#answers(peer))) return undefined;
    const reasons = this.roots().map(({ address, reason }) => `${address}: ${reason ?? ''}`);
    return `no root answers (${reasons.join('; ')}); what is read here comes from the registry`;
  }

  /** What is known of each root and relay but this host. */
  roots(): readonly SeenRoot[] {
    return this.#roots.map(({ peer, addresses }) => {
      const address = addresses[0] ?? '';
      return { peer, address, reason: this.#answers(peer) ? undefined : this.#reasonOf(peer) };
    });
  }

  /** That others cannot reach this host, and what was tried; undefined where they can. */
  notReached(): string | undefined {
    const replies = [...this.#seen.values()].flatMap(({ reply }) => reply ?? []);
    const lost = this.#isUnreached() ? replies.find(({ reach }) => reach === 'not-reached') : null;
    if (!lost) return undefined;
    return (
      `others cannot reach this host (${lost.tried}): name an address that leads here in ` +
      'p2p.announce, or open p2p.listen to them; until then it takes blocks and gives none'
    );
  }

  /** What is wrong with this host as roots see it, for people. */
  notices(): readonly string[] {
    const replies = [...this.#seen].flatMap(([, { reply }]) => reply ?? []);
    const notices: string[] = [];
    const twin = replies.find((reply) => reply.twin !== '')?.twin;
    if (twin !== undefined) {
      notices.push(
        `another host has this one's identity (${twin}): remove identity.keyFile on one of them ` +
          'and restart its agent',
      );
    }
    const strangers = [...new Set(replies.flatMap((reply) => reply.strangers))];
    if (strangers.length > 0) {
      notices.push(
        `roots do not know each other (unknown to another: ${strangers.join(', ')}): ` +
          'name all roots in `roots` of every host, the roots too',
      );
    }
    return notices;
  }

  /** Asks for names that people want to see and that are missing, for a moment. */
  async learn(): Promise<void> {
    const { clock } = this.#components;
    const nowMs = clock.nowMs();
    const isNew = (peer: PeerId): boolean =>
      !this.#names.has(peer) &&
      nowMs >= (this.#learntMs.get(peer) ?? -LEARN_AGAIN_MS) + LEARN_AGAIN_MS;
    const missing = this.#init.neighbours().filter(isNew);
    if (missing.length === 0) return;
    for (const peer of missing) this.#learntMs.set(peer, nowMs);
    const visits = Promise.all(this.#roots.map((root) => this.#visit(root)));
    await within(clock, LEARN_MS_MAX, (signal) => orAbort(visits, signal)).catch(() => {});
  }

  nameOf(peer: PeerId): HostName | undefined {
    return this.#names.get(peer);
  }

  #answers(peer: PeerId): boolean {
    const seen = this.#seen.get(peer);
    const isWell = seen !== undefined && seen.reason === undefined;
    return isWell && this.#components.transport.peers().includes(peer);
  }

  /** Why a root does not answer. */
  #reasonOf(peer: PeerId): string {
    const { reason, reply } = this.#seen.get(peer) ?? {};
    if (reason !== undefined) return reason;
    if (reply !== undefined) return 'the connection broke';
    return this.#silent.has(peer) ? 'it showed no sign of life' : 'it was not asked yet';
  }

  #isUnreached(): boolean {
    const words = [...this.#seen.values()].map(({ reply }) => reply?.reach);
    return words.includes('not-reached') && !words.includes('reached');
  }

  #watchAfter(delayMs: number): void {
    if (this.#stop.signal.aborted) return;
    this.#timer?.cancel();
    this.#timer = this.#components.clock.setTimer(delayMs, () => void this.#watch());
  }

  async #watch(): Promise<void> {
    const { clock } = this.#components;
    if (this.#looking) return;
    this.#looking = true;
    try {
      const changed = await this.#init.refresh();
      const lost = this.#roots.filter(
        ({ peer }) => this.#seen.get(peer)?.reply !== undefined && !this.#answers(peer),
      );
      for (const { peer } of lost) this.#seen.set(peer, { reason: 'the connection broke' });
      if (lost.length > 0) this.#told();
      if (changed || lost.length > 0 || clock.nowMs() >= this.#dueMs) await this.#look(changed);
    } finally {
      this.#looking = false;
    }
    this.#watchAfter(Math.max(1, Math.min(WATCH_MS, this.#dueMs - clock.nowMs())));
  }

  async #look(changed: boolean): Promise<void> {
    const { clock, random } = this.#components;
    await Promise.all(this.#roots.map((root) => this.#visit(root)));
    if (this.#stop.signal.aborted) return;
    const { card, capacity } = this.#init;
    const children = this.#isUnreached() ? 0 : capacity;
    const isNew = changed || children !== card.capacity;
    card.capacity = children;
    if (isNew) await Promise.all(this.#roots.map((root) => this.#showCard(root)));
    this.#told();
    const replies = [...this.#seen.values()];
    const isAway = replies.some(({ reply }) => reply === undefined);
    const isOpen = replies.some(({ reply }) => reply !== undefined && reply.reach !== 'reached');
    const delayMs = isAway ? INTERVAL_MS_AWAY : isOpen ? INTERVAL_MS_OPEN : INTERVAL_MS;
    this.#dueMs = clock.nowMs() + jitter(random, delayMs, 0.5);
  }

  #told(): void {
    const answering = this.#roots.filter(({ peer }) => this.#answers(peer)).length;
    this.#answering.set({}, answering);
    for (const text of this.notices()) {
      const key = text.slice(0, text.indexOf('('));
      if (!this.#warned.has(key)) this.#components.logger.warn({}, text);
      this.#warned.add(key);
    }
    this.#init.onChange();
  }

  async #visit(root: HostAddress): Promise<void> {
    const { transport, clock } = this.#components;
    const stop = { signal: this.#stop.signal };
    try {
      if (!transport.peers().includes(root.peer)) {
        await within(clock, DIAL_MS_MAX, (signal) => this.#dial(root, signal), stop);
      }
      const { card, name } = this.#init;
      const asked = this.#init
        .neighbours()
        .filter((peer) => !this.#names.has(peer))
        .slice(0, ASKED_MAX);
      const { peer, addresses, zone, capacity, announced } = card;
      const host: HostCard = { peer, addresses, zone, capacity, announced };
      const request = { host, name, run: this.#run, roots: this.#rootIds, asked };
      const reply = await within(
        clock,
        ANSWER_MS_MAX,
        (signal) => transport.call(root, 'presence', request, signal),
        stop,
      );
      for (const each of reply.names) this.#names.set(each.peer, each);
      this.#silent.delete(root.peer);
      this.#seen.set(root.peer, { reply });
    } catch (error) {
      const isThere = error instanceof PeerError && error.code === 'overloaded';
      const reply = this.#seen.get(root.peer)?.reply;
      if (isThere && reply !== undefined) return;
      this.#seen.set(root.peer, { reason: errorText(error) });
    }
  }

  /** A JOIN without blobs: the trees that this host is in go by its new card. */
  async #showCard(root: HostAddress): Promise<void> {
    const { transport, clock, logger } = this.#components;
    const { peer, addresses, zone, capacity, announced } = this.#init.card;
    const request = { host: { peer, addresses, zone, capacity, announced }, blobs: [] };
    await within(clock, ANSWER_MS_MAX, (signal) => transport.call(root, 'join', request, signal), {
      signal: this.#stop.signal,
    }).catch((error: unknown) => {
      logger.debug({ root: root.peer, error: errorText(error) }, 'a root was not told of a change');
    });
  }

  async #dial({ peer, addresses }: HostAddress, signal: AbortSignal): Promise<void> {
    const { transport, logger } = this.#components;
    let failure: unknown = new Error('it has no address');
    for (const address of addresses) {
      try {
        await transport.identify(`${address}/p2p/${peer}`, signal);
        return;
      } catch (error) {
        failure = error;
        logger.debug({ root: peer, address, error: errorText(error) }, 'a root was not reached');
      }
    }
    throw failure;
  }
}
