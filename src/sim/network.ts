import type { JoinReply } from '../tree/messages.ts';
import type { Random } from '../runtime/random.ts';
import { defined } from '../util/assert.ts';
import { DIAL_MS, HANDSHAKE_ROUND_TRIPS, LISTEN_MS, MESSAGE_BYTES } from './costs.ts';
import type { EventHeap } from './event-heap.ts';
import type { Body, Delivery, HostNumber, Link, PeerToken, SimEvent } from './events.ts';
import type { Processors } from './processors.ts';

/** A blocked connection ends after this long: Linux' TCP_USER_TIMEOUT as agents set it. */
const STALL_MS_MAX = 10_000;

/** A dial without an answer fails after this long. */
const DIAL_MS_MAX = 5_000;

/**
 * One message in `LATE_ONE_IN` is late by up to `LATE_MS_MAX`: a switch's queue, an interrupt on a
 * busy core.
 */
const LATE_ONE_IN = 1000;
const LATE_MS_MAX = 2;

/** Share of the base latency by which messages differ. */
const JITTER_SHARE = 0.2;

/** One way into another zone, in milliseconds: availability zones of one region. */
const ZONE_LATENCY_MS = 0.75;

/** The network's side of a host. */
export interface Port {
  readonly number: HostNumber;
  readonly zone: number;
  /** Connections from and to this host exist before the world starts. */
  readonly standing: boolean;
  readonly processors: Processors<unknown>;
  readonly links: Map<HostNumber, Link>;
  up: boolean;
  /** Hosts in different groups cannot reach each other. */
  group: number;
  /** Restarts so far; standing connections are gone after the first restart. */
  incarnation: number;
  sendBytesPerMs: number;
  receiveBytesPerMs: number;
  sendFreeMs: number;
  receiveFreeMs: number;
}

/** Traffic of the network so far; bytes of blocks do not include their frames. */
export interface NetworkCounts {
  connections: number;
  messages: number;
  blockBytes: number;
  crossZoneBytes: number;
}

/**
 * The network between agents.
 *
 * A message passes the sender's NIC, the latency and the receiver's NIC. Each NIC serves each
 * direction first come, first served, and stores and forwards whole messages. TCP keeps the order
 * on a connection. The first message to a host pays for a handshake.
 *
 * Fault model:
 * - A host crashes: messages in transit from and to it are lost; each peer learns of the end of the
 *   connection one latency later.
 * - A host stops (SIGSTOP): its kernel accepts what arrives, nothing answers, and no peer learns of
 *   it.
 * - A partition: messages wait. After 10 s of waiting the connection ends on both sides; if the
 *   partition heals earlier, the waiting messages go on.
 * - A connection breaks: messages in transit are lost, and both sides learn of it.
 * - A dial to a host that is down fails after a round trip; a dial into a partition fails after 5
 *   s.
 *
 * Messages are neither altered nor duplicated: TCP and Noise prevent both. Lying and corrupting
 * peers are faults of hosts, not of the network.
 */
export class Network {
  readonly counts: NetworkCounts = {
    connections: 0,
    messages: 0,
    blockBytes: 0,
    crossZoneBytes: 0,
  };
  readonly #events: EventHeap<SimEvent>;
  readonly #random: Random;
  readonly #ports: readonly Port[];
  readonly #latencyMs: number;
  readonly #stalled = new Set<Link>();
  #untilLate: number;

  constructor(
    components: { events: EventHeap<SimEvent>; random: Random; ports: readonly Port[] },
    init: { latencyMs: number },
  ) {
    this.#events = components.events;
    this.#random = components.random;
    this.#ports = components.ports;
    this.#latencyMs = init.latencyMs;
    this.#untilLate = LATE_ONE_IN;
  }

  /** Whether two hosts can reach each other. */
  reaches(a: HostNumber, b: HostNumber): boolean {
    return this.port(a).group === this.port(b).group;
  }

  port(host: HostNumber): Port {
    return defined(this.#ports[host], 'a host of this world');
  }

  /**
   * Sends a message at `atMs`. With a `parcel`, a `sent` event follows when the message has left,
   * or at once when it cannot leave.
   */
  send(
    route: { from: HostNumber; to: HostNumber; atMs: number },
    body: Body,
    parcel?: PeerToken,
  ): void {
    const { from, to, atMs } = route;
    const link = this.port(from).links.get(to) ?? this.#connect(from, to, atMs);
    const sizeBytes = sizeOf(body);
    const delivery: Delivery = { type: 'deliver', link, from, to, body, sizeBytes, parcel };
    if (link.state === 'dialling') link.waiting.push(delivery);
    else this.#transmit(delivery, atMs);
  }

  /** The open connection between two hosts, if there is one. */
  openLink(a: HostNumber, b: HostNumber): Link | undefined {
    const link = this.port(a).links.get(b);
    return link?.state === 'open' ? link : undefined;
  }

  /** The dialler's handshake message reached the listener's machine. */
  dialled(link: Link, startedMs: number, nowMs: number): void {
    if (link.state !== 'dialling') return;
    const dialler = link.dialler;
    const listener = link.dialler === link.low ? link.high : link.low;
    const port = this.port(listener);
    const failAtMs = Math.max(nowMs, startedMs + DIAL_MS_MAX);
    if (!this.reaches(dialler, listener)) {
      this.#events.push(failAtMs, { type: 'dial-failed', link });
      return;
    }
    if (!port.up) {
      this.#events.push(nowMs + this.#latency(dialler, listener), { type: 'dial-failed', link });
      return;
    }
    const doneMs = port.processors.runAgent(nowMs, LISTEN_MS);
    const roundTripsLeft = HANDSHAKE_ROUND_TRIPS - 0.5;
    const openMs = doneMs + 2 * roundTripsLeft * this.#latency(dialler, listener);
    if (openMs > failAtMs) this.#events.push(failAtMs, { type: 'dial-failed', link });
    else this.#events.push(openMs, { type: 'open', link });
  }

  opened(link: Link, nowMs: number): void {
    if (link.state !== 'dialling') return;
    link.state = 'open';
    this.counts.connections++;
    this.#release(link, nowMs);
  }

  /** Ends a dial; returns the messages that waited for it. */
  dialFailed(link: Link): readonly Delivery[] {
    if (link.state !== 'dialling') return [];
    return this.#close(link);
  }

  /** Ends a connection that has waited in a partition for `STALL_MS_MAX`. */
  stallEnded(link: Link, nowMs: number): void {
    if (!link.stalled || link.state !== 'open') return;
    this.breakLink(link, nowMs);
  }

  /** Ends the connection; both sides learn of it now. */
  breakLink(link: Link, nowMs: number): void {
    if (link.state === 'closed') return;
    this.#forfeit(this.#close(link), nowMs);
    this.#events.push(nowMs, { type: 'gone', host: link.low, peer: link.high });
    this.#events.push(nowMs, { type: 'gone', host: link.high, peer: link.low });
  }

  /** Ends all connections of a host that went down. */
  crash(host: HostNumber, nowMs: number): void {
    for (const [peer, link] of [...this.port(host).links]) {
      const wasOpen = link.state === 'open';
      this.#forfeit(this.#close(link), nowMs);
      const silentMs = this.reaches(host, peer) ? this.#latency(host, peer) : STALL_MS_MAX;
      if (wasOpen || link.dialler === peer) {
        this.#events.push(nowMs + silentMs, { type: 'gone', host: peer, peer: host });
      }
    }
  }

  /** The groups have changed: waiting messages that get through now go on. */
  healed(nowMs: number): void {
    for (const link of [...this.#stalled]) {
      if (!this.reaches(link.low, link.high)) continue;
      this.#stalled.delete(link);
      link.stalled = false;
      if (link.state === 'open') this.#release(link, nowMs);
    }
  }

  #connect(from: HostNumber, to: HostNumber, atMs: number): Link {
    const a = this.port(from);
    const b = this.port(to);
    const standing =
      (a.standing || b.standing) && a.incarnation === 0 && b.incarnation === 0 && a.up && b.up;
    const link: Link = {
      low: Math.min(from, to),
      high: Math.max(from, to),
      dialler: from,
      state: standing ? 'open' : 'dialling',
      waiting: [],
      upArrivalMs: 0,
      downArrivalMs: 0,
      stalled: false,
    };
    a.links.set(to, link);
    b.links.set(from, link);
    if (!standing) {
      const sentMs = a.processors.runAgent(atMs, DIAL_MS);
      const arrivalMs = sentMs + this.#latency(from, to);
      this.#events.push(arrivalMs, { type: 'dialled', link, startedMs: atMs });
    }
    return link;
  }

  #transmit(delivery: Delivery, atMs: number): void {
    const { link, from, to, sizeBytes, body } = delivery;
    if (!this.reaches(from, to)) {
      this.#stall(delivery, atMs);
      return;
    }
    const sender = this.port(from);
    const receiver = this.port(to);
    const sentMs = Math.max(atMs, sender.sendFreeMs) + sizeBytes / sender.sendBytesPerMs;
    sender.sendFreeMs = sentMs;
    const freeMs = receiver.receiveFreeMs + sizeBytes / receiver.receiveBytesPerMs;
    let arrivalMs = Math.max(sentMs + this.#latency(from, to), freeMs);
    receiver.receiveFreeMs = arrivalMs;
    if (from === link.low) {
      arrivalMs = Math.max(arrivalMs, link.upArrivalMs);
      link.upArrivalMs = arrivalMs;
    } else {
      arrivalMs = Math.max(arrivalMs, link.downArrivalMs);
      link.downArrivalMs = arrivalMs;
    }
    this.counts.messages++;
    if (body.kind === 'block') this.#countBlock(sender, receiver, body.block.lengthBytes);
    if (delivery.parcel !== undefined) {
      this.#events.push(sentMs, { type: 'sent', host: from, token: delivery.parcel });
    }
    this.#events.push(arrivalMs, delivery);
  }

  #countBlock(sender: Port, receiver: Port, lengthBytes: number): void {
    this.counts.blockBytes += lengthBytes;
    if (sender.zone !== receiver.zone) this.counts.crossZoneBytes += lengthBytes;
  }

  #stall(delivery: Delivery, atMs: number): void {
    const { link } = delivery;
    link.waiting.push(delivery);
    if (link.stalled) return;
    link.stalled = true;
    this.#stalled.add(link);
    this.#events.push(atMs + STALL_MS_MAX, { type: 'stalled', link });
  }

  #release(link: Link, nowMs: number): void {
    const waiting = link.waiting;
    link.waiting = [];
    for (const delivery of waiting) this.#transmit(delivery, nowMs);
  }

  #close(link: Link): readonly Delivery[] {
    link.state = 'closed';
    this.#stalled.delete(link);
    this.port(link.low).links.delete(link.high);
    this.port(link.high).links.delete(link.low);
    const waiting = link.waiting;
    link.waiting = [];
    return waiting;
  }

  /**
   * Messages still unsent on a closed connection count as sent: nothing waits for them any more.
   */
  #forfeit(waiting: readonly Delivery[], nowMs: number): void {
    for (const delivery of waiting) {
      if (delivery.parcel === undefined) continue;
      this.#events.push(nowMs, { type: 'sent', host: delivery.from, token: delivery.parcel });
    }
  }

  #latency(a: HostNumber, b: HostNumber): number {
    const sameZone = this.port(a).zone === this.port(b).zone;
    const base = sameZone ? this.#latencyMs : Math.max(this.#latencyMs, ZONE_LATENCY_MS);
    const late = --this.#untilLate <= 0 ? this.#drawLate() : 0;
    return base * (1 + JITTER_SHARE * this.#random.float()) + late;
  }

  #drawLate(): number {
    this.#untilLate = 1 + this.#random.below(2 * LATE_ONE_IN);
    return LATE_MS_MAX * this.#random.float();
  }
}

/** Bytes of a message on the wire. */
function sizeOf(body: Body): number {
  switch (body.kind) {
    case 'block':
      return body.block.lengthBytes + MESSAGE_BYTES;
    case 'order':
      return MESSAGE_BYTES + 4 * body.order.indices.length;
    case 'call':
      return (
        MESSAGE_BYTES + (body.call.kind === 'join' ? 150 * body.call.request.blobs.length : 256)
      );
    case 'result':
      return MESSAGE_BYTES + (body.answer.type === 'join' ? sizeOfPlaces(body.answer.reply) : 256);
    default:
      return MESSAGE_BYTES;
  }
}

/**
 * A message names a host once (70 bytes) and then by two bytes; a reply names about half of its
 * hosts twice.
 */
function sizeOfPlaces({ places }: JoinReply): number {
  let hosts = 0;
  for (const { path, alternates } of places) hosts += path.length + alternates.length;
  return 40 * hosts + 16 * places.length;
}
