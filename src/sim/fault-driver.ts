import { unreachable } from '../util/assert.ts';
import type { EventHeap } from './event-heap.ts';
import type { SimEvent } from './events.ts';
import type { Fault, FaultAct } from './faults.ts';
import type { Network } from './network.ts';
import type { Registry } from './registry.ts';
import type { SeededRandom } from './seeded-random.ts';
import type { SimHost } from './sim-host.ts';

/** A slow link runs at this share of its rate. */
const SLOW_LINK_SHARE = 1 / 20;

/** Injects the planned faults into the world, and ends them. */
export class FaultDriver {
  readonly #hosts: readonly SimHost[];
  readonly #network: Network;
  readonly #registry: Registry;
  readonly #events: EventHeap<SimEvent>;
  readonly #random: SeededRandom;
  readonly #faults: readonly Fault[];
  /**
   * Time of the last change of the groups or the registry: hosts reachable since then are reachable
   * for longer than a moment.
   */
  changedMs = 0;
  /** Time of the last change of the groups, the registry or the set of roots that are up. */
  sourcesChangedMs = 0;

  constructor(
    components: {
      hosts: readonly SimHost[];
      network: Network;
      registry: Registry;
      events: EventHeap<SimEvent>;
      random: SeededRandom;
    },
    faults: readonly Fault[],
  ) {
    this.#hosts = components.hosts;
    this.#network = components.network;
    this.#registry = components.registry;
    this.#events = components.events;
    this.#random = components.random;
    this.#faults = faults;
  }

  /** Schedules the begin and the end of every fault. */
  schedule(): void {
    this.#faults.forEach(({ atMs, endMs }, number) => {
      this.#events.push(atMs, { type: 'fault', number, end: false });
      this.#events.push(endMs, { type: 'fault', number, end: true });
    });
  }

  onEvent(number: number, end: boolean, nowMs: number): void {
    const fault = this.#faults[number];
    if (fault === undefined) return;
    if (end) this.#undo(fault.act, nowMs);
    else this.#act(fault, nowMs);
  }

  #act({ act, endMs }: Fault, nowMs: number): void {
    switch (act.type) {
      case 'crash':
        this.#die(act.host, nowMs);
        this.#hosts[act.host]?.crash(nowMs);
        this.#noteRoot(act.host, nowMs);
        return;
      case 'hang':
        this.#die(act.host, nowMs);
        this.#hosts[act.host]?.hang(endMs);
        return;
      case 'partition':
        for (const host of act.away) this.#port(host).group = 1;
        this.#registry.group = act.registryAway ? 1 : 0;
        this.#noteChange(nowMs);
        return;
      case 'slow-link':
        return this.#scaleLink(act.host, SLOW_LINK_SHARE);
      case 'loss':
        return this.#breakOne(nowMs);
      case 'lie': {
        const agent = this.#hosts[act.host]?.agent;
        if (agent !== undefined) agent.lie = act.lie;
        return;
      }
      case 'registry':
        this.#registry.setMode(act.mode);
        this.#noteChange(nowMs);
        return;
      case 'full-disk': {
        const host = this.#hosts[act.host];
        if (host !== undefined) host.store.full = true;
        return;
      }
      case 'slow-disk':
        return this.#slowDisk(act.host, true);
      case 'clock': {
        const agent = this.#hosts[act.host]?.agent;
        if (agent === undefined) return;
        agent.clockAheadMs += act.byMs;
        agent.post({ kind: 'tick' }, nowMs);
        return;
      }
      default:
        return unreachable(act);
    }
  }

  #undo(act: FaultAct, nowMs: number): void {
    switch (act.type) {
      case 'crash':
        if (act.returns) this.#hosts[act.host]?.restart(nowMs);
        this.#noteRoot(act.host, nowMs);
        return;
      case 'partition':
        for (const host of act.away) this.#port(host).group = 0;
        this.#registry.group = 0;
        this.#noteChange(nowMs);
        return this.#network.healed(nowMs);
      case 'slow-link':
        return this.#scaleLink(act.host, 1 / SLOW_LINK_SHARE);
      case 'lie': {
        const agent = this.#hosts[act.host]?.agent;
        if (agent !== undefined) agent.lie = undefined;
        return;
      }
      case 'registry':
        this.#registry.setMode('healthy');
        this.#noteChange(nowMs);
        return;
      case 'full-disk': {
        const host = this.#hosts[act.host];
        if (host !== undefined) host.store.full = false;
        return;
      }
      case 'slow-disk':
        return this.#slowDisk(act.host, false);
      case 'hang':
      case 'loss':
      case 'clock':
        return;
      default:
        return unreachable(act);
    }
  }

  #slowDisk(number: number, isSlow: boolean): void {
    const host = this.#hosts[number];
    if (host !== undefined) host.store.slow = isSlow;
  }

  #noteChange(nowMs: number): void {
    this.changedMs = nowMs;
    this.sourcesChangedMs = nowMs;
  }

  #noteRoot(host: number, nowMs: number): void {
    if (this.#hosts[host]?.role === 'root') this.sourcesChangedMs = nowMs;
  }

  #die(host: number, nowMs: number): void {
    const byRoot = this.#hosts[host]?.role === 'root';
    for (const other of this.#hosts) {
      if (other.number !== host) other.sourceDied(host, byRoot, nowMs);
    }
  }

  #port(host: number): SimHost['port'] {
    return this.#network.port(host);
  }

  #scaleLink(host: number, factor: number): void {
    const port = this.#port(host);
    port.sendBytesPerMs *= factor;
    port.receiveBytesPerMs *= factor;
  }

  /** Breaks one connection in a hundred. */
  #breakOne(nowMs: number): void {
    for (const { port } of this.#hosts) {
      for (const [peer, link] of [...port.links]) {
        if (peer < port.number || link.state !== 'open') continue;
        if (this.#random.float() < 0.01) this.#network.breakLink(link, nowMs);
      }
    }
  }
}
