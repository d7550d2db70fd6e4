import type { Codec } from '../runtime/codec.ts';
import type { HostCoreInit } from '../transfer/host/host-core.ts';
import type { HostAddress, HostCard, JoinReply, Place, ReportReply } from '../tree/messages.ts';
import { innerFanOut } from '../tree/owner/colours.ts';
import { COLOURS, INNER_CHILDREN, REPORT_INTERVAL_MS, ROOT_DOWN_MS_MAX } from '../tree/limits.ts';
import { defined, unreachable } from '../util/assert.ts';
import { peerId, type PeerId } from '../util/peer-id.ts';
import type { AgentHost } from './agent-host.ts';
import type { AgentWorld } from './agent-world.ts';
import { BlockLibrary, type SimBlock } from './blocks.ts';
import { Checker } from './checker.ts';
import type { Container } from './containers.ts';
import { EventHeap } from './event-heap.ts';
import type { HostNumber, Link, LocalToken, SimEvent, Stalled } from './events.ts';
import { FaultDriver } from './fault-driver.ts';
import { FAULT_WINDOW_MS, planFaults, ROOTS_AWAY } from './faults.ts';
import { Network } from './network.ts';
import { spreadOf } from './quantiles.ts';
import { makePlans } from './plans.ts';
import { Registry } from './registry.ts';
import { SeededRandom } from './seeded-random.ts';
import { SimHost, type HostListener, type HostPlan, type HostRole } from './sim-host.ts';
import { checkPlaces, checkTrees, treeDepthBound } from './tree-checks.ts';
import { bytesOf, makeImage, type Image } from './workload.ts';
import type { WorldInit, WorldResult, WorldTimes } from './world-types.ts';

/** 1.5 Gbit/s and 10 Gbit/s in bytes per millisecond. */
const NIC_BYTES_PER_MS = 1.5e9 / 8 / 1000;
const REGISTRY_BYTES_PER_MS = 10e9 / 8 / 1000;

/** Interval between checks of the owners' trees while faults last. */
const SAMPLE_MS = 500;

/** After the heal all work must be done within this time: twice the deadline of a read. */
const LIVENESS_MS = 60_000;

/** By this time every returning host is back: the fault window and the longest absence. */
const HEALED_MS = FAULT_WINDOW_MS + 3_000;

/** A source reachable for less does not count: a read needs a few round trips to find it. */
const MOMENT_MS = 2_000;

/** Hosts retry a down root after 90 s at most, with a report; the effects take another report. */
const QUIET_MS = 1.5 * ROOT_DOWN_MS_MAX + 3 * REPORT_INTERVAL_MS;

/** With faults, hosts begin one after the other all through this time. */
const ROLLOUT_MS = 0.8 * FAULT_WINDOW_MS;

/** Events between two progress reports. */
const PROGRESS_EVENTS = 1_000_000;

/** Relays of one group of hosts: as many as the roots of a cluster of that size. */
const RELAYS_PER_GROUP = 4;

/**
 * Hosts, network, registry, faults and checkers around the production reducers, in discrete time.
 * One seed, one result: a cold run with the faults, then a warm run of the same containers.
 */
export class World implements HostListener {
  readonly checker = new Checker();
  readonly #init: WorldInit;
  readonly #image: Image;
  readonly #events = new EventHeap<SimEvent>();
  readonly #hosts: SimHost[] = [];
  readonly #network: Network;
  readonly #registry: Registry;
  readonly #faults: FaultDriver;
  readonly #touched = new Set<SimBlock>();
  readonly #numbers = new Map<PeerId, HostNumber>();
  readonly #roots: readonly HostAddress[];
  /** By group. */
  readonly #relays: readonly (readonly HostAddress[])[];
  /** The plans of the hosts, in turn. */
  readonly #plans: readonly HostPlan[];
  readonly #times: WorldTimes;
  #phase: 'cold' | 'warm' = 'cold';
  #busy = 0;
  #nowMs = 0;
  #failedWithoutSource = 0;
  readonly #depthMax: Record<HostRole, number> = { child: 0, root: 0, relay: 0 };
  readonly #depthBounds: Readonly<Record<HostRole, number>>;
  #onProgress: ((nowMs: number, busy: number) => void) | undefined;

  /** A world that has not begun. */
  static async make(components: { codec: Codec }, init: WorldInit): Promise<World> {
    const image = makeImage(init.layersMb);
    return new World(init, { image, plans: await makePlans(components, image, init) });
  }

  private constructor(
    init: WorldInit,
    { image, plans }: { image: Image; plans: readonly HostPlan[] },
  ) {
    this.#init = init;
    this.#depthBounds = this.#makeDepthBounds();
    const random = new SeededRandom(`world ${init.seed}`);
    this.#image = image;
    this.#times = { cold: [], warm: [], stall: [], full: [] };
    this.#plans = plans;
    this.#registry = new Registry(
      { events: this.#events, random: random.split('registry') },
      {
        bytesPerMs: REGISTRY_BYTES_PER_MS,
        requestsPerSecond: init.registryRequestsPerSecond,
      },
    );
    this.#roots = Array.from({ length: init.roots }, (_, i) =>
      addressOf(peerId(`root-${init.hosts + i}`)),
    );
    this.#relays = Array.from({ length: init.groups }, (_, group) =>
      Array.from({ length: RELAYS_PER_GROUP }, (_unused, i) =>
        addressOf(peerId(`relay-${init.hosts + init.roots + group + i * init.groups}`)),
      ),
    );
    const ports: SimHost['port'][] = [];
    this.#network = new Network(
      { events: this.#events, random: random.split('network'), ports },
      { latencyMs: init.latencyMs },
    );
    const world = this.#agentWorld();
    const hostCount = init.hosts + init.roots + init.groups * RELAYS_PER_GROUP;
    for (let number = 0; number < hostCount; number++) {
      const host = this.#makeHost(number, world, random.split(`host ${number}`));
      this.#hosts.push(host);
      ports.push(host.port);
    }
    this.#faults = new FaultDriver(
      {
        hosts: this.#hosts,
        network: this.#network,
        registry: this.#registry,
        events: this.#events,
        random: random.split('loss'),
      },
      planFaults(random.split('faults'), init.faults, {
        workers: this.#hosts.filter(({ role }) => role !== 'root').map(({ number }) => number),
        roots: this.#hosts.filter(({ role }) => role === 'root').map(({ number }) => number),
      }),
    );
  }

  /** Runs the world to its end. Calls `onProgress` after every `PROGRESS_EVENTS` events. */
  run(onProgress?: (nowMs: number, busy: number) => void): WorldResult {
    this.#onProgress = onProgress;
    for (const host of this.#hosts.toReversed()) host.boot(0);
    this.#begin();
    this.#faults.schedule();
    if (this.#init.faults.length > 0) this.#events.push(SAMPLE_MS, { type: 'sample' });
    const healedMs = this.#init.faults.length > 0 ? HEALED_MS : 0;
    this.#runUntil(healedMs, 'cold');
    if (this.#init.workload === 'start') {
      this.#phase = 'warm';
      for (const host of this.#hosts) {
        if (!host.port.up || host.role !== 'child' || host.busy) continue;
        host.startContainers(this.#nowMs);
      }
      this.#runUntil(0, 'warm');
    }
    // With the next reports hosts give up places of stand-in owners and agree on one tree.
    if (this.#init.faults.length > 0) this.#runUntil(this.#nowMs + QUIET_MS, 'quiet');
    this.#checkTrees();
    checkPlaces(this.#hosts, this.checker);
    this.#checkFallback();
    return this.#result();
  }

  /** Times of all containers, stalls and whole-image reads, in the order in which they ended. */
  get times(): Readonly<WorldTimes> {
    return this.#times;
  }

  // HostListener

  containerDone(_host: SimHost, container: Container, nowMs: number): void {
    this.#busy--;
    if (!container.failed) this.#times[this.#phase].push(nowMs - container.startMs);
  }

  preheated(_host: SimHost, nowMs: number): void {
    this.#busy--;
    this.#times.full.push(nowMs);
  }

  abandoned(_host: SimHost, count: number): void {
    this.#busy -= count;
  }

  begun(_host: SimHost, count: number): void {
    this.#busy += count;
  }

  /**
   * Time that the trees took after the death: from when a root within reach held the block, if
   * later; after a root's death, from when a root within reach may read it from the registry.
   */
  // Four parameters: the listener's.
  stallEnded(host: SimHost, { block }: LocalToken, stalled: Stalled, nowMs: number): void {
    const sinceMs = this.#rootsWithinReach(host).map(({ store, port }) => {
      const held = store.heldSinceMs(block);
      const reads = stalled.byRoot && this.#registry.serves(port);
      return reads ? 0 : (held ?? Number.POSITIVE_INFINITY);
    });
    const fromMs = Math.max(stalled.fromMs, this.#faults.sourcesChangedMs, Math.min(...sinceMs));
    if (fromMs <= nowMs) this.#times.stall.push(nowMs - fromMs);
  }

  #rootsWithinReach(host: SimHost): SimHost[] {
    return this.#hosts.filter(
      ({ role, port, number }) =>
        role === 'root' && port.up && this.#network.reaches(number, host.number),
    );
  }

  readFailed(host: SimHost, token: LocalToken, code: string, nowMs: number): void {
    if (!this.#hadSource(host, token, nowMs)) {
      this.#failedWithoutSource++;
      return;
    }
    const { blob, index } = token.block;
    const waitedMs = Math.round(nowMs - token.startedMs);
    this.checker.violate(
      'failed-read',
      `host ${host.number}: ${code} for block ${index} of blob ${blob.number} after ${waitedMs} ms`,
    );
  }

  placed(host: SimHost, reply: JoinReply | ReportReply): void {
    for (const place of reply.places) this.#checkPlace(host, place);
  }

  #checkPlace(host: SimHost, place: Place): void {
    const depth = place.path.length;
    const { role } = host;
    this.#depthMax[role] = Math.max(this.#depthMax[role], depth);
    if (place.path.some(({ peer }) => peer === host.peer)) {
      this.checker.violate('cycle', `${host.peer} was placed below itself`);
    }
    if (depth <= this.#depthBounds[role]) return;
    this.checker.violate('depth', `${host.peer} was placed at depth ${depth}`);
  }

  /** Most hops to the keeper of a tree; below relays, the hops from relay to owner come on top. */
  #makeDepthBounds(): Record<HostRole, number> {
    const { hosts, roots, groups, zones, core } = this.#init;
    const fanOut = core?.topology?.fanOut ?? INNER_CHILDREN;
    const boundOf = (count: number, keepers: number, zoneCount: number): number => {
      // A keeper of trees is a member of the trees that it does not keep.
      const zoneHosts = Math.ceil(count / zoneCount) + Math.ceil(keepers / zoneCount);
      return treeDepthBound({ hosts: zoneHosts, zones: zoneCount, fanOut });
    };
    if (groups === 0) return { child: boundOf(hosts, roots, zones), root: 0, relay: 0 };
    const groupHosts = Math.ceil(hosts / groups);
    return {
      child: boundOf(groupHosts, RELAYS_PER_GROUP, 1),
      root: 0,
      relay: boundOf(groups * RELAYS_PER_GROUP, roots, zones),
    };
  }

  /** Whether a healthy source was within reach for longer than a moment before the read failed. */
  #hadSource(host: SimHost, token: LocalToken, nowMs: number): boolean {
    return nowMs - this.#faults.changedMs >= MOMENT_MS && this.#hasSource(host, token);
  }

  #hasSource(host: SimHost, token: LocalToken): boolean {
    if (this.#registry.serves(host.port)) return true;
    const { blob, index } = token.block;
    return this.#rootsWithinReach(host).some(({ store }) => store.has(blob.digest, index));
  }

  #begin(): void {
    const rolling = this.#init.faults.length > 0;
    this.#hosts.forEach((host, i) => {
      if (host.role !== 'child') return;
      if (rolling) {
        const atMs = (i * ROLLOUT_MS) / this.#init.hosts;
        this.#events.push(atMs, { type: 'begin', host: host.number });
      } else {
        host.begin(0);
      }
    });
  }

  #runUntil(leastMs: number, phase: string): void {
    const endMs = Math.max(leastMs, this.#nowMs) + LIVENESS_MS;
    let steps = 0;
    while (this.#busy > 0 || this.#nowMs < leastMs) {
      const atMs = this.#events.nextMs;
      if (atMs === undefined || atMs > endMs) {
        this.checker.violate('stuck', `${this.#busy} jobs of the ${phase} run are not done`);
        return;
      }
      this.#nowMs = atMs;
      this.checker.nowMs = atMs;
      this.#dispatch(this.#events.pop() as SimEvent);
      if (++steps % PROGRESS_EVENTS === 0) this.#onProgress?.(atMs, this.#busy);
    }
  }

  #dispatch(event: SimEvent): void {
    const nowMs = this.#nowMs;
    if ('incarnation' in event && this.#isOver(event)) return;
    switch (event.type) {
      case 'deliver':
        if (event.link.state === 'closed') return;
        return this.#agent(event.to)?.post({ kind: 'message', delivery: event }, nowMs);
      case 'sent':
        return this.#agent(event.host)?.post({ kind: 'sent', token: event.token }, nowMs);
      case 'cpu':
        return this.#host(event.host).onProcessors(event.version, nowMs);
      case 'agent':
        return this.#agent(event.host)?.onFree(nowMs);
      case 'tick':
        return this.#agent(event.host)?.onTick(nowMs);
      case 'item':
        return this.#agent(event.host)?.post(event.item, nowMs);
      case 'read-done':
        return this.#host(event.host).onReadDone(event.read, event.ok, nowMs);
      case 'container':
        return this.#host(event.host).onContainer(event.container, nowMs);
      case 'begin':
        return this.#host(event.host).begin(nowMs);
      case 'places-late':
        return this.#host(event.host).onPlacesLate(nowMs);
      case 'dialled':
        return this.#network.dialled(event.link, event.startedMs, nowMs);
      case 'open':
        return this.#network.opened(event.link, nowMs);
      case 'dial-failed':
        return this.#dialFailed(event.link, nowMs);
      case 'stalled':
        return this.#network.stallEnded(event.link, nowMs);
      case 'gone':
        return this.#agent(event.host)?.post({ kind: 'gone', peer: event.peer }, nowMs);
      case 'fault':
        return this.#faults.onEvent(event.number, event.end, nowMs);
      case 'sample':
        return this.#sample();
      default:
        return unreachable(event);
    }
  }

  /** Whether the host went down since. */
  #isOver({ host, incarnation }: { host: HostNumber; incarnation: number }): boolean {
    return this.#host(host).port.incarnation !== incarnation;
  }

  #dialFailed(link: Link, nowMs: number): void {
    for (const { body, from, parcel } of this.#network.dialFailed(link)) {
      this.#agent(from)?.post({ kind: 'undelivered', body }, nowMs);
      if (parcel !== undefined) this.#agent(from)?.post({ kind: 'sent', token: parcel }, nowMs);
    }
  }

  #checkFallback(): void {
    if (this.#init.faults.some((fault) => ROOTS_AWAY.has(fault))) return;
    this.checker.readThemselves(this.#registry.fallbackBytesOf, bytesOf(this.#touched));
  }

  #sample(): void {
    this.#checkTrees();
    if (this.#nowMs < HEALED_MS) {
      this.#events.push(this.#nowMs + SAMPLE_MS, { type: 'sample' });
    }
  }

  #checkTrees(): void {
    const topology = this.#init.core?.topology;
    const fanOut = topology?.fanOut ?? INNER_CHILDREN;
    const widest = innerFanOut(fanOut, topology?.colours ?? COLOURS);
    const withFaults = this.#init.faults.length > 0;
    const limits = {
      fanOut,
      innerFanOut: widest,
      rootFanOut: withFaults ? undefined : (topology?.rootFanOut ?? widest),
    };
    for (const host of this.#hosts) {
      if (host.role !== 'child') checkTrees(host, limits, this.checker);
    }
  }

  #host(number: HostNumber): SimHost {
    return defined(this.#hosts[number], 'a host of this world');
  }

  #agent(number: HostNumber): AgentHost | undefined {
    return this.#hosts[number]?.agent;
  }

  #agentWorld(): AgentWorld {
    const blobs = [...this.#image.blobs, ...this.#plans.map(({ trace }) => trace.shipped)];
    return {
      events: this.#events,
      network: this.#network,
      registry: this.#registry,
      library: new BlockLibrary(blobs),
      checker: this.checker,
      originName: { registry: 'registry.example', repository: 'app' },
      touched: this.#touched,
      planted: this.#init.planted,
      opens: this.#init.road === 'prefix',
      peerOf: (host) => this.#host(host).peer,
      numberOf: (peer) => defined(this.#numbers.get(peer), 'a peer of this world'),
    };
  }

  #makeHost(number: HostNumber, world: AgentWorld, random: SeededRandom): SimHost {
    const { hosts, roots, groups, zones, vcpus, nicBytesPerMs } = this.#init;
    const [role, nth] =
      number < hosts
        ? (['child', number] as const)
        : number < hosts + roots
          ? (['root', number - hosts] as const)
          : (['relay', number - hosts - roots] as const);
    const zone = nth % zones;
    const peer = peerId(`${role === 'child' ? 'host' : role}-${number}`);
    const relays = role === 'root' || groups === 0 ? [] : this.#relays[nth % groups];
    const card = { ...addressOf(peer), zone: `zone-${zone}`, capacity: 1000 };
    this.#numbers.set(peer, number);
    return new SimHost(
      { world, listener: this, random, core: () => this.#coreInit(card, role, relays) },
      {
        number,
        peer,
        zone,
        role,
        vcpus,
        nicBytesPerMs: nicBytesPerMs ?? NIC_BYTES_PER_MS,
        plan: defined(this.#plans[number % this.#plans.length], 'a plan'),
      },
    );
  }

  #coreInit(self: HostCard, role: HostRole, relays: readonly HostAddress[] = []): HostCoreInit {
    const { core, planted } = this.#init;
    const wide =
      planted === 'wide'
        ? { fanOut: 2 * INNER_CHILDREN, rootFanOut: 2 * INNER_CHILDREN }
        : undefined;
    return {
      self,
      role,
      roots: this.#roots,
      relays,
      ...core,
      topology: { ...core?.topology, ...wide, epochBase: this.#nowMs * 1000 },
    };
  }

  #result(): WorldResult {
    const { hosts, containersPerHost, seed, workload } = this.#init;
    const { checker } = this;
    const touchedBytes = bytesOf(this.#touched);
    const nic = this.#init.nicBytesPerMs ?? NIC_BYTES_PER_MS;
    const full = { max: spreadOf(this.#times.full).max, ideal: this.#image.sizeBytes / nic };
    return {
      hosts,
      containers: workload === 'full' ? 0 : hosts * containersPerHost,
      seed,
      failedReads: checker.count('failed-read'),
      failedReadsWithoutSource: this.#failedWithoutSource,
      wrongBytes: checker.count('wrong-bytes') + checker.count('unverified'),
      cycles: checker.count('cycle'),
      violations: checker.total,
      depthMax: this.#depthMax.child + this.#depthMax.relay,
      depthBound: this.#depthBounds.child + this.#depthBounds.relay,
      originAmplification: touchedBytes === 0 ? 0 : this.#registry.servedBytes / touchedBytes,
      coldMs: spreadOf(this.#times.cold),
      warmMs: spreadOf(this.#times.warm),
      stallMs: spreadOf(this.#times.stall),
      ...(workload === 'full' && { fullMs: full }),
      crossZoneBytes: this.#network.counts.crossZoneBytes,
      touchedBytes,
      originBytes: this.#registry.servedBytes,
      fallbackBytes: this.#registry.fallbackBytes,
      peerBytes: this.#network.counts.blockBytes,
      connections: this.#network.counts.connections,
      messages: this.#network.counts.messages,
      events: this.#events.scheduled,
    };
  }
}

function addressOf(peer: PeerId): HostAddress {
  return { peer, addresses: [`/dns4/${peer}/tcp/19147`] };
}
