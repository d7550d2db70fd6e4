import type { DiskStore } from '../blockstore/disk-store.ts';
import type { Digest } from '../image/digest.ts';
import type { Libp2pTransport } from '../net/libp2p-transport.ts';
import type { Clock } from '../runtime/clock.ts';
import type { TransferEngine } from '../transfer/drive/engine.ts';
import { runsOf } from '../transfer/host/runs.ts';
import type { HostAddress } from '../tree/messages.ts';
import type { AgentStatus, HeldBlob, TreeStatus } from './admin/answers.ts';
import type { AgentFacts, Readiness } from './admin/services.ts';
import type { Config } from './config/config-schema.ts';
import { packageVersion } from './version.ts';

interface Components {
  readonly clock: Clock;
  readonly readiness: Readiness;
  readonly self: HostAddress;
  readonly store: DiskStore;
  readonly transport: Pick<Libp2pTransport, 'peers'>;
  readonly engine: TransferEngine;
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

  status(): AgentStatus {
    const { role, zone } = this.#config;
    const { store, transport, engine, self, readiness, clock } = this.#parts;
    const notReady = readiness.notReady();
    return {
      version: packageVersion(),
      role,
      peer: self.peer,
      zone,
      addresses: self.addresses,
      uptimeSeconds: (clock.nowMs() - this.#startedMs) / 1000,
      ...(notReady !== undefined && { notReady }),
      peers: transport.peers(),
      store: {
        dir: this.#config.store.dir,
        quotaBytes: this.#config.store.quota,
        ...store.stats(),
      },
      failedReads: engine.failedReads,
      bytesBySource: engine.bytesBySource(),
    };
  }

  tree(digest?: Digest): readonly TreeStatus[] {
    return this.#parts.engine
      .trees()
      .filter((seat) => digest === undefined || seat.digest === digest)
      .map(({ place, children, ...seat }) => ({
        ...seat,
        epoch: place?.epoch ?? 0,
        path: place?.path.map((host) => host.peer) ?? [],
        alternates: place?.alternates.map((host) => host.peer) ?? [],
        children,
      }));
  }

  blobs(): readonly HeldBlob[] {
    const { store } = this.#parts;
    return store.blobs().map((blob) => ({ ...blob, blocks: runsOf(store.blocksOf(blob.digest)) }));
  }
}
