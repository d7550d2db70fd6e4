import { netMetrics } from '../../net/metrics.ts';
import type { Clock } from '../../runtime/clock.ts';
import { within } from '../../runtime/deadline.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { Counter, Metrics } from '../../runtime/metrics.ts';
import type { HostAddress } from '../../tree/messages.ts';
import type { HostName, PresenceReply, PresenceRequest } from '../../tree/presence.ts';
import { BoundedMap } from '../../util/bounded-map.ts';
import { errorText } from '../../util/errors.ts';
import type { PeerId } from '../../util/peer-id.ts';

/** Hosts that are remembered: twice as many as connect. */
const HOSTS_MAX = 24_000;

/** Earlier processes of a host. */
const RUNS_MAX = 4;

/** For a connection back to a host. */
const REACH_MS_MAX = 5_000;

/** One connection at a time, and a pause: each costs this host 13 ms of CPU. */
const REACH_PAUSE_MS = 100;

/** How long the outcome of one stands, while the host keeps its addresses. */
const REACHED_MS = 600_000;
const NOT_REACHED_MS = 30_000;

/** One dial that failed says little of a host on a busy machine: it is tried again so soon. */
const FAILURES_MIN = 2;
const AGAIN_MS = 1_000;

/** Roots that find each other do so at their next look; the same warning comes again so late. */
const STRANGER_MS = 10_000;
const WARN_AGAIN_MS = 600_000;

/** How long after the last sign of a twin its host is told. */
const TWIN_MS = 180_000;

const STRANGERS_MAX = 256;
const TRIED_LENGTH_MAX = 500;

interface Entry {
  readonly names: HostName;
  readonly told: string;
  run: string;
  /** Where its earlier processes were. */
  readonly earlier: BoundedMap<string, string>;
  twin: string;
  twinMs: number;
  reach: PresenceReply['reach'];
  tried: string;
  reachedMs: number;
  /** Dials that failed in a row. */
  failures: number;
}

interface Components {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
  readonly transport: {
    /** Makes a connection to the host, and ends it. Rejects when there is no way. */
    reach(host: HostAddress, signal: AbortSignal): Promise<void>;
  };
}

/**
 * The hosts of the cluster, on a root or relay: by what name and address people know them, whether
 * others can reach them, whether two have one identity, and which roots this host does not know.
 */
export class HostBook {
  readonly #parts: Components;
  readonly #self: () => HostName;
  /** Undefined while roots of the configuration are missing. */
  #roots: ReadonlySet<PeerId> | undefined;
  readonly #hosts = new BoundedMap<PeerId, Entry>({ entriesMax: HOSTS_MAX });
  readonly #strangers = new BoundedMap<PeerId, number>({ entriesMax: STRANGERS_MAX });
  readonly #warned = new BoundedMap<string, number>({ entriesMax: STRANGERS_MAX });
  readonly #toReach = new Map<PeerId, HostAddress>();
  readonly #stop = new AbortController();
  readonly #twins: Counter;
  #reaching = false;

  constructor(components: Components, init: { readonly self: () => HostName }) {
    this.#parts = components;
    this.#self = init.self;
    this.#twins = netMetrics(components.metrics).twins;
    this.#twins.inc({}, 0);
  }

  nameOf(peer: PeerId): HostName | undefined {
    return this.#hosts.get(peer)?.names;
  }

  /** The roots that this host knows; undefined while some of its configuration are missing. */
  setRoots(roots: readonly PeerId[] | undefined): void {
    this.#roots = roots && new Set(roots);
  }

  stop(): void {
    this.#stop.abort();
  }

  /** For a host that says that it is there. */
  async answer(peer: PeerId, request: PresenceRequest): Promise<PresenceReply> {
    const { host, name, asked } = request;
    const { addresses, zone } = host;
    const told = addresses.join(' ');
    const before = this.#hosts.get(peer);
    const isSame = before?.told === told;
    const entry: Entry = {
      names: { peer, name, zone, address: addresses[0] ?? '' },
      told,
      run: before?.run ?? request.run,
      earlier: before?.earlier ?? new BoundedMap({ entriesMax: RUNS_MAX }),
      twin: before?.twin ?? '',
      twinMs: before?.twinMs ?? 0,
      reach: isSame ? before.reach : 'unknown',
      tried: isSame ? before.tried : '',
      reachedMs: isSame ? before.reachedMs : Number.NEGATIVE_INFINITY,
      failures: isSame ? before.failures : 0,
    };
    this.#hosts.set(peer, entry);
    this.#noteRun(entry, before?.names ?? entry.names, request.run);
    this.#checkReach(entry, { peer, addresses });
    return {
      reach: entry.reach,
      tried: entry.tried,
      twin: this.#parts.clock.nowMs() < entry.twinMs + TWIN_MS ? entry.twin : '',
      strangers: this.#strangersOf(request.roots, entry.names),
      names: [this.#self(), ...asked.flatMap((each) => this.nameOf(each) ?? [])],
    };
  }

  /** A process that comes back after another of its identity ran beside it all the time. */
  #noteRun(entry: Entry, before: HostName, run: string): void {
    if (entry.run === run) return;
    const other = `${before.name} at ${before.address || 'an unknown address'}`;
    if (entry.earlier.get(run) !== undefined) {
      entry.twin = other;
      entry.twinMs = this.#parts.clock.nowMs();
      this.#twins.inc({});
      const { peer, name, address } = entry.names;
      const fields = { peer, hosts: [other, `${name} at ${address}`] };
      this.#warn(
        `twin ${peer}`,
        fields,
        'two hosts have one identity: remove identity.keyFile on one of them and restart its agent',
      );
    }
    entry.earlier.set(entry.run, other);
    entry.run = run;
  }

  #strangersOf(roots: readonly PeerId[], asker: HostName): readonly PeerId[] {
    const known = this.#roots;
    if (known === undefined) return [];
    const nowMs = this.#parts.clock.nowMs();
    for (const root of known) this.#strangers.delete(root);
    return roots.filter((root) => {
      if (known.has(root)) return false;
      const sinceMs = this.#strangers.get(root) ?? nowMs;
      this.#strangers.set(root, sinceMs);
      if (nowMs < sinceMs + STRANGER_MS) return false;
      this.#warn(
        `stranger ${root}`,
        { root, host: asker.name },
        'a host knows a root that this one does not know: name all roots in `roots` of every host',
      );
      return true;
    });
  }

  #checkReach(entry: Entry, host: HostAddress): void {
    const wellMs = entry.failures === 0 ? REACHED_MS : AGAIN_MS;
    const forMs = entry.reach === 'not-reached' ? NOT_REACHED_MS : wellMs;
    if (this.#parts.clock.nowMs() < entry.reachedMs + forMs) return;
    this.#toReach.set(host.peer, host);
    if (!this.#reaching) void this.#reachAll();
  }

  async #reachAll(): Promise<void> {
    this.#reaching = true;
    const { clock, transport } = this.#parts;
    const { signal } = this.#stop;
    for (const [peer, host] of this.#toReach) {
      this.#toReach.delete(peer);
      const reach = (limit: AbortSignal): Promise<void> => transport.reach(host, limit);
      const [outcome] = await Promise.allSettled([
        host.addresses.length === 0
          ? Promise.reject(new Error('it tells no address'))
          : within(clock, REACH_MS_MAX, reach, { signal }),
      ]);
      if (signal.aborted) return;
      const entry = this.#hosts.get(peer);
      if (entry?.told === host.addresses.join(' ')) {
        noteReach(entry, outcome);
        entry.reachedMs = clock.nowMs();
      }
      await clock.sleep(REACH_PAUSE_MS, signal).catch(() => {});
    }
    this.#reaching = false;
  }

  #warn(key: string, fields: Record<string, unknown>, text: string): void {
    const nowMs = this.#parts.clock.nowMs();
    if (nowMs < (this.#warned.get(key) ?? Number.NEGATIVE_INFINITY) + WARN_AGAIN_MS) return;
    this.#warned.set(key, nowMs);
    this.#parts.logger.warn(fields, text);
  }
}

/** What a dial says of a host: the first one that fails leaves the word of the one before. */
function noteReach(entry: Entry, outcome: PromiseSettledResult<void>): void {
  if (outcome.status === 'fulfilled') {
    Object.assign(entry, { reach: 'reached', tried: '', failures: 0 } satisfies Partial<Entry>);
    return;
  }
  entry.failures++;
  if (entry.failures < FAILURES_MIN) return;
  entry.reach = 'not-reached';
  entry.tried = `${entry.told}: ${errorText(outcome.reason)}`.slice(0, TRIED_LENGTH_MAX);
}
