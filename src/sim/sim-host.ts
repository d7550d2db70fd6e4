import { blockCount, blockIndex } from '../image/block.ts';
import type { HostCoreInit } from '../transfer/host/host-core.ts';
import type { JoinReply, ReportReply, TouchOrder } from '../tree/messages.ts';
import type { PeerId } from '../util/peer-id.ts';
import { AgentHost } from './agent-host.ts';
import type { AgentListener, AgentWorld } from './agent-world.ts';
import type { SimBlock } from './blocks.ts';
import { Containers, type Container, type ContainerHost } from './containers.ts';
import type { HostNumber, LocalToken, SimEvent, Stalled } from './events.ts';
import type { Port } from './network.ts';
import { Processors } from './processors.ts';
import type { SeededRandom } from './seeded-random.ts';
import { SimStore } from './store.ts';
import type { BlockName, SimBlob, Trace } from './workload.ts';

/**
 * Maximum number of blocks that a preheater has in flight: more than the bandwidth-delay product of
 * a deep tree.
 */
const PREHEAT_WINDOW = 64;

/**
 * Longest wait of a host for its places before it preheats from the roots, or begins without the
 * shipped order.
 */
const PLACES_MS_MAX = 2_000;

/** The role of a host's agent. */
export type HostRole = HostCoreInit['role'];

/** A host's work in a run. */
export interface HostPlan {
  readonly trace: Trace;
  readonly containers: number;
  /** The order of touches that the image ships; undefined when it ships none. */
  readonly shipped: readonly TouchOrder[] | undefined;
  /** Blobs that the host joins. */
  readonly blobs: readonly SimBlob[];
  /** Blocks to read instead of running containers. */
  readonly preheat: readonly BlockName[] | undefined;
}

/** Receives the progress of a host. */
export interface HostListener {
  /** `count` containers, or the preheater, have begun. */
  begun(host: SimHost, count: number): void;
  /** A container ended, or died of a failed read. */
  containerDone(host: SimHost, container: Container, nowMs: number): void;
  readFailed(host: SimHost, token: LocalToken, code: string, nowMs: number): void;
  /** A read was answered after the death of a source that it was pending at. */
  stallEnded(host: SimHost, token: LocalToken, stalled: Stalled, nowMs: number): void;
  placed(host: SimHost, reply: JoinReply | ReportReply): void;
  preheated(host: SimHost, nowMs: number): void;
  /** The host went down with `count` containers or preheaters unfinished. */
  abandoned(host: SimHost, count: number): void;
}

/** One machine: vCPUs, NIC, disk, an agent and its containers. */
export class SimHost implements ContainerHost, AgentListener {
  readonly peer: PeerId;
  readonly port: Port;
  readonly store: SimStore;
  readonly role: HostRole;
  readonly #world: AgentWorld;
  readonly #listener: HostListener;
  readonly #plan: HostPlan;
  readonly #processors: Processors<Container>;
  readonly #random: SeededRandom;
  readonly #core: () => HostCoreInit;
  readonly #containers: Containers;
  #agent: AgentHost | undefined;
  /** Local reads that wait, by block. */
  readonly #reading = new Map<SimBlock, LocalToken[]>();
  /** Blocks that reads of the trace still wait for. */
  readonly #blocksLeft = new Map<number, number>();
  #cpuVersion = 0;
  #cpuAtMs = Number.POSITIVE_INFINITY;
  #begun = false;
  #waitsForPlaces = false;
  #preheatNext = 0;
  #preheatLeft = 0;
  /** Blocks of the trace layer that have not arrived. */
  #traceLeft = 0;

  constructor(
    components: {
      world: AgentWorld;
      listener: HostListener;
      random: SeededRandom;
      /** Limits and roots of the agent's reducer. */
      core: () => HostCoreInit;
    },
    init: {
      number: HostNumber;
      peer: PeerId;
      zone: number;
      role: HostRole;
      vcpus: number;
      nicBytesPerMs: number;
      plan: HostPlan;
    },
  ) {
    this.#world = components.world;
    this.#listener = components.listener;
    this.#random = components.random;
    this.#core = components.core;
    this.#plan = init.plan;
    this.role = init.role;
    this.store = new SimStore({ dated: init.role === 'root' });
    this.peer = init.peer;
    this.#processors = new Processors({ count: init.vcpus });
    this.port = makePort(init, this.#processors);
    this.#containers = new Containers(
      {
        trace: init.plan.trace,
        processors: this.#processors,
        host: this,
        random: this.#random.split('containers'),
      },
      { count: init.role === 'child' ? init.plan.containers : 0 },
    );
  }

  get number(): HostNumber {
    return this.port.number;
  }

  get agent(): AgentHost | undefined {
    return this.#agent;
  }

  /** Whether its containers, or its preheater, are still at work. */
  get busy(): boolean {
    return this.#containers.unfinished > 0 || this.#preheatLeft > 0;
  }

  /** The agent starts. */
  boot(nowMs: number): void {
    this.port.up = true;
    const random = this.#random.split(`agent ${this.port.incarnation}`);
    this.#agent = new AgentHost(
      { world: this.#world, port: this.port, store: this.store, listener: this, random },
      { core: this.#core(), clockAheadMs: random.below(1_000_000) },
    );
    this.#agent.post({ kind: 'tick' }, nowMs);
  }

  /** Starts the containers, or the preheater; the agent joins the trees first. */
  begin(nowMs: number): void {
    if (this.role !== 'child' || this.#begun || this.#agent === undefined) return;
    this.#begun = true;
    const { preheat } = this.#plan;
    // Until its places are known a host asks the roots: a preheater that did not wait would load
    // them with its whole demand.
    this.#waitsForPlaces = this.#plan.shipped !== undefined || preheat !== undefined;
    this.#agent.post({ kind: 'want', blobs: this.#wanted }, nowMs);
    if (preheat !== undefined) {
      this.#preheatNext = 0;
      this.#preheatLeft = preheat.length;
      this.#listener.begun(this, 1);
    }
    if (this.#waitsForPlaces) {
      const event = { type: 'places-late', host: this.number, incarnation: this.port.incarnation };
      this.#world.events.push(nowMs + PLACES_MS_MAX, event as SimEvent);
    }
    if (preheat === undefined) this.startContainers(nowMs);
  }

  /** Runs all containers once. */
  startContainers(nowMs: number): void {
    this.#containers.expect();
    this.#listener.begun(this, this.#containers.unfinished);
    const { incarnation, number: host } = this.port;
    this.#containers.delaysMs.forEach((delayMs, container) => {
      const event = { type: 'container', host, container, incarnation } as const;
      this.#world.events.push(nowMs + delayMs, event);
    });
  }

  /** The host goes down: it loses the agent, the containers and its memory. */
  crash(nowMs: number): void {
    if (!this.port.up) return;
    this.port.up = false;
    this.#world.network.crash(this.number, nowMs);
    this.#agent?.crash();
    this.#agent = undefined;
    this.port.incarnation++;
    this.#processors.clear(nowMs);
    this.store.crash(nowMs);
    const preheating = this.#preheatLeft > 0 ? 1 : 0;
    this.#listener.abandoned(this, this.#containers.unfinished + preheating);
    this.#containers.crash();
    this.#reading.clear();
    this.#blocksLeft.clear();
    this.#cpuVersion++;
    this.#cpuAtMs = Number.POSITIVE_INFINITY;
    this.#preheatLeft = 0;
    this.#begun = false;
  }

  /** The host comes back with the blocks that its disk kept. */
  restart(nowMs: number): void {
    if (this.port.up) return;
    this.boot(nowMs);
    this.begin(nowMs);
  }

  /** The agent hangs, as after SIGSTOP; the containers go on. */
  hang(untilMs: number): void {
    this.#processors.stopAgent(untilMs);
  }

  onContainer(container: number, nowMs: number): void {
    this.#containers.begin(container, nowMs);
  }

  onProcessors(version: number, nowMs: number): void {
    if (version !== this.#cpuVersion) return;
    this.#cpuAtMs = Number.POSITIVE_INFINITY;
    this.#containers.onProcessors(nowMs);
  }

  onReadDone(read: number, ok: boolean, nowMs: number): void {
    if (ok) this.#containers.readDone(read, nowMs);
    else this.#containers.readFailed(read, nowMs);
  }

  onPlacesLate(nowMs: number): void {
    this.#placesKnown(nowMs);
  }

  /** A source has died: reads whose fetch is pending there are stalled from now on. */
  sourceDied(peer: HostNumber, byRoot: boolean, nowMs: number): void {
    for (const block of this.#agent?.askedOf(peer) ?? []) {
      for (const token of this.#reading.get(block) ?? []) {
        token.stalled ??= { fromMs: nowMs, byRoot };
      }
    }
  }

  // ContainerHost

  read(read: number, nowMs: number): void {
    const blocks = this.#plan.trace.reads[read]?.blocks ?? [];
    this.#blocksLeft.set(read, blocks.length);
    for (const name of blocks) this.#readBlock(name, { read, kind: 'demand' }, nowMs);
  }

  finished(container: Container, nowMs: number): void {
    this.#listener.containerDone(this, container, nowMs);
  }

  rescheduled(nowMs: number): void {
    const doneMs = this.#processors.nextDoneMs;
    // An event scheduled too early finds nothing done and leads back here.
    if (doneMs === undefined || this.#cpuAtMs <= doneMs) return;
    this.#cpuAtMs = Math.max(nowMs, doneMs);
    const version = ++this.#cpuVersion;
    this.#world.events.push(this.#cpuAtMs, { type: 'cpu', host: this.number, version });
  }

  // AgentListener

  answered(token: LocalToken, block: SimBlock, atMs: number): void {
    this.#world.checker.answered(this.number, token.block, block);
    this.#settle(token);
    if (token.stalled !== undefined) this.#listener.stallEnded(this, token, token.stalled, atMs);
    this.#blockDone(token, true, atMs);
  }

  failed(token: LocalToken, code: string, atMs: number): void {
    this.#settle(token);
    if (token.readKind === 'demand') this.#listener.readFailed(this, token, code, atMs);
    this.#blockDone(token, false, atMs);
  }

  placed(reply: JoinReply | ReportReply, atMs: number): void {
    this.#listener.placed(this, reply);
    const { agent } = this;
    if (!this.#waitsForPlaces || agent === undefined) return;
    if (this.#wanted.every((blob) => agent.core.isSettled(blob))) this.#placesKnown(atMs);
  }

  #placesKnown(nowMs: number): void {
    if (!this.#waitsForPlaces || this.#agent === undefined) return;
    this.#waitsForPlaces = false;
    if (this.#plan.preheat !== undefined) {
      this.#preheat(nowMs);
      return;
    }
    const blob = this.#plan.trace.shipped;
    this.#traceLeft = blockCount(blob.sizeBytes);
    for (let i = 0; i < blockCount(blob.sizeBytes); i++)
      this.#readBlock({ blob, index: blockIndex(i) }, { read: undefined, kind: 'prefetch' }, nowMs);
  }

  /** The blobs of the image, and the blob of its trace. */
  get #wanted(): readonly SimBlob[] {
    const { blobs, trace, shipped } = this.#plan;
    return shipped === undefined ? blobs : [...blobs, trace.shipped];
  }

  #readBlock(
    name: BlockName,
    how: { read: number | undefined; kind: 'demand' | 'prefetch' },
    nowMs: number,
  ): void {
    const block = this.#world.library.block(name.blob, name.index);
    this.#world.touched.add(block);
    const token: LocalToken = {
      kind: 'local',
      block,
      read: how.read,
      readKind: how.kind,
      startedMs: nowMs,
      stalled: undefined,
    };
    const reading = this.#reading.get(block);
    if (reading === undefined) this.#reading.set(block, [token]);
    else reading.push(token);
    this.#agent?.post({ kind: 'read', token }, nowMs);
  }

  #settle(token: LocalToken): void {
    const reading = this.#reading.get(token.block);
    if (reading === undefined) return;
    const at = reading.indexOf(token);
    if (at >= 0) reading.splice(at, 1);
    if (reading.length === 0) this.#reading.delete(token.block);
  }

  #blockDone(token: LocalToken, ok: boolean, atMs: number): void {
    const { read } = token;
    if (read !== undefined) {
      const left = (this.#blocksLeft.get(read) ?? 0) - 1;
      this.#blocksLeft.set(read, ok ? left : Number.NEGATIVE_INFINITY);
      if (ok && left !== 0) return;
      if (!ok && left === Number.NEGATIVE_INFINITY) return;
      const { number: host, incarnation } = this.port;
      this.#world.events.push(atMs, { type: 'read-done', host, incarnation, read, ok });
    } else if (this.#plan.preheat !== undefined) {
      this.#preheatDone(token, ok, atMs);
    } else if (ok && --this.#traceLeft === 0) {
      this.#agent?.post({ kind: 'orders', orders: this.#plan.shipped ?? [] }, atMs);
    }
  }

  #preheat(nowMs: number): void {
    const blocks = this.#plan.preheat ?? [];
    while (this.#preheatNext < Math.min(blocks.length, PREHEAT_WINDOW)) {
      this.#preheatOne(nowMs);
    }
  }

  #preheatOne(nowMs: number): void {
    const name = this.#plan.preheat?.[this.#preheatNext++];
    if (name !== undefined) this.#readBlock(name, { read: undefined, kind: 'prefetch' }, nowMs);
  }

  #preheatDone(token: LocalToken, ok: boolean, atMs: number): void {
    if (!ok) {
      this.#readBlock(token.block, { read: undefined, kind: 'demand' }, atMs);
      return;
    }
    this.#preheatLeft--;
    if (this.#preheatLeft === 0) this.#listener.preheated(this, atMs);
    else this.#preheatOne(atMs);
  }
}

function makePort(
  init: { number: HostNumber; zone: number; role: HostRole; nicBytesPerMs: number },
  processors: Processors<Container>,
): Port {
  return {
    number: init.number,
    zone: init.zone,
    standing: init.role !== 'child',
    processors,
    links: new Map(),
    up: false,
    group: 0,
    incarnation: 0,
    sendBytesPerMs: init.nicBytesPerMs,
    receiveBytesPerMs: init.nicBytesPerMs,
    sendFreeMs: 0,
    receiveFreeMs: 0,
  };
}
