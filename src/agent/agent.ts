import { networkInterfaces } from 'node:os';
import { BLOCK_SIZE_BYTES } from '../image/block.ts';
import type { Digest } from '../image/digest.ts';
import { DiskStore } from '../blockstore/disk-store.ts';
import { DeviceService } from '../device/device-service.ts';
import { peerIdOf, publicKeyOf } from '../net/identity.ts';
import { Libp2pTransport } from '../net/libp2p-transport.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Logger } from '../runtime/logger.ts';
import type { Random } from '../runtime/random.ts';
import { NodeCodec } from '../runtime/node/codec.ts';
import { NodeDisk } from '../runtime/node/disk.ts';
import { NodeHash } from '../runtime/node/hash.ts';
import { ed25519Signer } from '../runtime/node/signer.ts';
import { runsOf } from '../transfer/host-core.ts';
import { TransferEngine } from '../transfer/engine.ts';
import type { HostAddress } from '../tree/messages.ts';
import { BufferPool } from '../util/buffer-pool.ts';
import { defined } from '../util/assert.ts';
import { peerId, type PeerId } from '../util/peer-id.ts';
import { parseListenAddress } from './addresses.ts';
import { AdminServer } from './admin-server.ts';
import { AgentError } from './errors.ts';
import { BlobEndpoint } from './blob-endpoint.ts';
import type { Config } from './config-schema.ts';
import { EngineDirectory } from './engine-directory.ts';
import { ImageMounts } from './image-mounts.ts';
import { loadClusterKey, loadIdentitySeed } from './key-files.ts';
import { LocalServer } from './local-server.ts';
import type { AgentStatus, HeldBlob, StatusSource, TreeStatus } from './ports.ts';
import { PromMetrics } from './prom-metrics.ts';
import { RegistryOrigin } from './registry-origin.ts';
import type { Service } from './run.ts';
import { packageVersion } from './version.ts';

/** Slabs kept for reuse beyond those in use: 32 x 256 KiB = 8 MiB. */
const POOL_FREE_MAX = 32;

/** Children that a host serves in one tree. */
const CAPACITY = 2;

interface AgentComponents {
  readonly logger: Logger;
  readonly clock: Clock;
  readonly random: Random;
}

/** Builds the agent of a host from its configuration: the one place where the real parts meet. Throws KeyFileError. */
export async function createAgent(config: Config, components: AgentComponents): Promise<Service> {
  return new Agent(config, components);
}

/**
 * An agent. Life: constructed -> `start()`: store, network, block logic, devices, local and admin endpoints, in this order
 * -> `stop()`: the reverse; each part stops whether or not the others run.
 */
class Agent implements Service, StatusSource {
  readonly #config: Config;
  readonly #parts: AgentComponents;
  readonly #peer: PeerId;
  readonly #store: DiskStore;
  readonly #transport: Libp2pTransport;
  readonly #engine: TransferEngine;
  readonly #devices: DeviceService | undefined;
  readonly #local: LocalServer;
  readonly #admin: AdminServer;
  readonly #startedMs: number;
  #notReady: string | undefined = 'starting';

  constructor(config: Config, components: AgentComponents) {
    const { logger, clock, random } = components;
    this.#config = config;
    this.#parts = components;
    this.#startedMs = clock.nowMs();
    loadClusterKey(config.cluster.keyFile, { logger });
    const seed = loadIdentitySeed(config.identity.keyFile, { logger, random });
    const signer = ed25519Signer(seed);
    const identity = { seed, publicKey: signer.publicKey };
    this.#peer = peerIdOf(identity);
    const metrics = new PromMetrics({ processMetrics: true });
    const pool = new BufferPool({ slabBytes: BLOCK_SIZE_BYTES, freeMax: POOL_FREE_MAX });
    const [codec, hash] = [new NodeCodec(), new NodeHash()];
    const disk = new NodeDisk({ root: config.store.dir });
    this.#store = new DiskStore({ disk, clock, codec, hash, pool, logger, metrics });
    this.#transport = new Libp2pTransport(
      { pool, clock, random, logger, metrics },
      { identity, listen: config.p2p.listen, announce: config.p2p.announce },
    );
    const roots = config.roots.map(parseRoot);
    const origin = new RegistryOrigin({ clock, random, logger, hash }, config);
    this.#engine = new TransferEngine(
      {
        transport: this.#transport,
        store: this.#store,
        origin,
        hash,
        signer,
        clock,
        random,
        pool,
        logger,
        metrics,
      },
      {
        self: {
          peer: this.#peer,
          addresses: addressesToTell(config),
          zone: config.zone,
          capacity: CAPACITY,
        },
        isRoot: config.role === 'root',
        roots,
        trusted: roots.map((root) => defined(publicKeyOf(root.peer), 'a root has a public key')),
      },
    );
    this.#transport.serve({
      block: this.#engine.blockServer,
      ...(config.role === 'root' && { tree: this.#engine.tree.server }),
    });
    this.#devices = config.device.enabled
      ? new DeviceService(
          { reader: this.#engine, codec, clock, logger, metrics },
          { stateDir: config.device.stateDir },
        )
      : undefined;
    const directory = new EngineDirectory({ engine: this.#engine, clock });
    const endpoint = new BlobEndpoint(
      { directory, reader: this.#engine, clock, logger, metrics },
      { prefix: config.local.prefix },
    );
    this.#local = new LocalServer(
      { routes: [endpoint], clock },
      { listen: listenAddress(config.local.listen) },
    );
    const mounts =
      this.#devices === undefined
        ? undefined
        : new ImageMounts({ engine: this.#engine, devices: this.#devices });
    this.#admin = new AdminServer(
      { status: this, metrics, clock, logger, ...(mounts !== undefined && { mounts }) },
      { listen: listenAddress(config.admin.listen) },
    );
  }

  async start(): Promise<void> {
    await this.#admin.start();
    await this.#store.start();
    await this.#transport.start();
    this.#engine.start();
    await this.#devices?.start();
    await this.#local.start();
    this.#notReady = undefined;
    const { logger } = this.#parts;
    logger.info({ peer: this.#peer, role: this.#config.role, admin: this.#admin.url }, 'started');
  }

  async stop(): Promise<void> {
    this.#notReady = 'stopping';
    await this.#local.stop();
    await this.#devices?.stop();
    await this.#engine.stop();
    await this.#transport.stop();
    await this.#store.stop();
    await this.#admin.stop();
  }

  notReady(): string | undefined {
    return this.#notReady;
  }

  status(): AgentStatus {
    const { store, role, zone } = this.#config;
    return {
      version: packageVersion(),
      role,
      peer: this.#peer,
      zone,
      addresses: addressesToTell(this.#config),
      uptimeSeconds: (this.#parts.clock.nowMs() - this.#startedMs) / 1000,
      ...(this.#notReady !== undefined && { notReady: this.#notReady }),
      peers: this.#transport.peers(),
      store: { dir: store.dir, quotaBytes: store.quota, ...this.#store.stats() },
      failedReads: this.#engine.failedReads,
      bytesBySource: this.#engine.bytesBySource(),
    };
  }

  tree(digest?: Digest): readonly TreeStatus[] {
    return this.#engine
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
    return this.#store
      .blobs()
      .map((blob) => ({ ...blob, blocks: runsOf(this.#store.blocksOf(blob.digest)) }));
  }
}

/** A root from its multiaddr, which ends in `/p2p/PEER`: the key that its attestations are checked with. */
function parseRoot(text: string): HostAddress {
  const match = /^(.+)\/p2p\/([^/]+)$/.exec(text);
  const [, address, peer] = match ?? [];
  if (address === undefined || peer === undefined) {
    throw new AgentError(
      `root ${text} cannot be used: it must end in /p2p/PEER, the id that \`xylem status\` prints on that host`,
      { code: 'root', root: text },
    );
  }
  return { peer: peerId(peer), addresses: [address] };
}

/** What other agents are told to dial: a wildcard stands for every address of this host that is not loopback. */
function addressesToTell(config: Config): readonly string[] {
  if (config.p2p.announce.length > 0) return config.p2p.announce;
  return config.p2p.listen.flatMap((address) => {
    const match = /^\/(ip4\/0\.0\.0\.0|ip6\/::)(\/tcp\/\d+)$/.exec(address);
    if (match === null) return [address];
    const [, host = '', tcp = ''] = match;
    const family = host.startsWith('ip4') ? 'IPv4' : 'IPv6';
    return Object.values(networkInterfaces())
      .flatMap((entries) => entries ?? [])
      .filter((entry) => entry.family === family && !entry.internal)
      .filter((entry) => !entry.address.startsWith('fe80:'))
      .map((entry) => `/${host.slice(0, 3)}/${entry.address}${tcp}`);
  });
}

function listenAddress(text: string): { host: string; port: number } {
  return defined(parseListenAddress(text), 'the configuration was checked');
}
