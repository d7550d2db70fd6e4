import type { DiskStore } from '../blockstore/disk-store.ts';
import type { Digest } from '../image/digest.ts';
import type { Libp2pTransport } from '../net/libp2p-transport.ts';
import type { Clock } from '../runtime/clock.ts';
import type { TransferEngine } from '../transfer/drive/engine.ts';
import { runsOf } from '../transfer/host/runs.ts';
import type { HostAddress } from '../tree/messages.ts';
import type { HostName } from '../tree/presence.ts';
import type { PeerId } from '../util/peer-id.ts';
import type { AgentStatus, HeldBlob, ShownHost } from './admin/answers.ts';
import type { AgentFacts, MountService, Readiness, ShownTrees } from './admin/services.ts';
import type { RootPresence } from './cluster/root-presence.ts';
import type { Config } from './config/config-schema.ts';
import { packageVersion } from './version.ts';

interface Components {
  readonly clock: Clock;
  readonly readiness: Readiness;
  readonly presence: Pick<RootPresence, 'roots' | 'learn'>;
  readonly nameOf: (peer: PeerId) => HostName | undefined;
  readonly self: HostAddress;
  readonly store: DiskStore;
  readonly transport: Pick<Libp2pTransport, 'peers'>;
  readonly engine: TransferEngine;
  /** Absent where the agent has no devices. */
  readonly mounts: Pick<MountService, 'list'> | undefined;
}

/** What the admin endpoint tells of a running agent. */
export class Facts implements AgentFacts {
  readonly #parts: Components;
  readonly #config: Config;
  readonly #startedMs: number;

  constructor(components: Components, config: Config) {
    this.#parts = components;
    this.#config = config;
    this.#startedMs = components.clock.nowMs();
  }

  async status(): Promise<AgentStatus> {
    await this.#parts.presence.learn();
    const { role, zone } = this.#config;
    const { store, transport, engine, self, readiness, clock } = this.#parts;
    const notReady = readiness.notReady();
    const peers = transport.peers();
    return {
      version: packageVersion(),
      role,
      peer: self.peer,
      zone,
      addresses: self.addresses,
      uptimeSeconds: (clock.nowMs() - this.#startedMs) / 1000,
      state: notReady === undefined ? 'ready' : 'not ready',
      ...(notReady !== undefined && { notReady }),
      notices: readiness.notices?.() ?? [],
      roots: this.#parts.presence.roots().map(({ peer, address, reason }) => ({
        peer,
        host: placeOf(this.#shown({ peer, addresses: [address] })),
        address,
        answers: reason === undefined,
        ...(reason !== undefined && { reason }),
      })),
      peers,
      hosts: peers.map((peer) => this.#shown({ peer, addresses: [] })),
      store: {
        dir: this.#config.store.dir,
        quotaBytes: this.#config.store.quota,
        ...store.stats(),
      },
      mounts: this.#parts.mounts?.list() ?? [],
      failedReads: engine.failedReads,
      bytesBySource: engine.bytesBySource(),
    };
  }

  async tree(digest?: Digest): Promise<ShownTrees> {
    await this.#parts.presence.learn();
    const seats = this.#parts.engine
      .trees()
      .filter((seat) => digest === undefined || seat.digest === digest);
    const hosts = new Map<PeerId, HostAddress>();
    for (const { place, children } of seats) {
      for (const peer of children) hosts.set(peer, hosts.get(peer) ?? { peer, addresses: [] });
      for (const host of [...(place?.path ?? []), ...(place?.alternates ?? [])]) {
        hosts.set(host.peer, host);
      }
    }
    const trees = seats.map(({ place, children, ...seat }) => ({
      ...seat,
      epoch: place?.epoch ?? 0,
      path: place?.path.map((host) => host.peer) ?? [],
      alternates: place?.alternates.map((host) => host.peer) ?? [],
      children,
    }));
    return { trees, hosts: [...hosts.values()].map((host) => this.#shown(host)) };
  }

  #shown({ peer, addresses: [address = ''] }: HostAddress): ShownHost {
    const known = this.#parts.nameOf(peer);
    if (known === undefined) return { peer, name: '', zone: '', address };
    return { ...known, address: address || known.address };
  }

  blobs(): readonly HeldBlob[] {
    const { store } = this.#parts;
    return store.blobs().map((blob) => ({ ...blob, blocks: runsOf(store.blocksOf(blob.digest)) }));
  }
}

/** The zone, where there are several, and the name of a host; empty when it is not known. */
function placeOf({ zone, name }: ShownHost): string {
  return zone === 'default' || name === '' ? name : `${zone}/${name}`;
}

/** The peers that people may see. */
export function neighboursOf({
  transport,
  engine,
}: Pick<Components, 'transport' | 'engine'>): readonly PeerId[] {
  const ofTrees = engine
    .trees()
    .flatMap(({ place, children }) => [
      ...[...(place?.path ?? []), ...(place?.alternates ?? [])].map(({ peer }) => peer),
      ...children,
    ]);
  return [...new Set([...transport.peers(), ...ofTrees])];
}
