import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { DeviceService } from '../../device/device-service.ts';
import { ImageDevices } from '../../device/image-devices.ts';
import type { KeptDescriptors } from '../../device/keeper/kept-descriptors.ts';
import { AgentLink } from '../../device/link/agent-link.ts';
import { LocalLayers } from '../../device/local-layers.ts';
import type { HeldStore } from '../../device/store-reader/held-image.ts';
import { systemZstd } from '../../device/system-zstd.ts';
import { WritableDevices } from '../../device/writable-devices.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import { NodeCodec } from '../../runtime/node/codec.ts';
import { NodeHash } from '../../runtime/node/hash.ts';
import { overlayOptions } from '../../snapshotter/files/overlay-options.ts';
import { SnapshotsServer } from '../../snapshotter/rpc/snapshots-server.ts';
import { Snapshotter, type SnapshotterComponents } from '../../snapshotter/snapshotter.ts';
import { SqliteStore } from '../../snapshotter/store/sqlite-store.ts';
import { makeAdminServer, type AdminServer } from '../admin/admin-server.ts';
import { PromMetrics } from '../admin/prom-metrics.ts';
import type { ContainerDevice } from '../admin/answers.ts';
import type { DeviceList, Readiness } from '../admin/services.ts';
import { NO_SOCKET } from '../config/admin-socket.ts';
import { ConfigError } from '../config/config.ts';
import type { Config } from '../config/config-schema.ts';
import { agentSocketOf } from '../config/device-keys.ts';
import type { Service } from '../run.ts';
import { LinkedMounts } from './linked-mounts.ts';

/** Folder of the devices of containers, below the state folder. */
const IMAGES_FOLDER = 'images';

/** Folder of writable devices, below the state folder. */
const WRITABLE_FOLDER = 'writable';

/** Metadata of the snapshots, in their folder. */
const METADATA_FILE = 'metadata.db';

interface Snapshots {
  /** Calls of containerd are answered from here on. */
  readonly ready: () => void;
  readonly snapshotter: Snapshotter;
  readonly server: SnapshotsServer;
}

interface Components {
  readonly logger: Logger;
  readonly clock: Clock;
  /** What outlives this process. */
  readonly keeper: KeptDescriptors;
  /** The agent's. */
  readonly store: HeldStore;
}

/**
 * The process that owns a host's block devices. It reads what the agent's store holds by itself,
 * and asks the agent for the rest.
 *
 * Life: constructed -> `start()`, in this order: link to the agent, socket for containerd, mounts
 * of an earlier process, snapshots, admin endpoint -> `stop()`, which unmounts everything, or
 * `yield()`, which leaves all to the next process.
 */
export class DeviceProcess implements Service, Readiness, DeviceList {
  readonly #keeper: KeptDescriptors;
  readonly #link: AgentLink;
  readonly #devices: DeviceService;
  readonly #images: ImageDevices;
  readonly #writable: WritableDevices;
  readonly #mounts: LinkedMounts;
  readonly #snapshots: Snapshots | undefined;
  readonly #admin: AdminServer;
  #notReady: string | undefined = 'the devices of an earlier process are being taken over';

  /** Throws ConfigError. */
  constructor(config: Config, components: Components) {
    const { logger, clock, keeper, store } = components;
    const { device } = config;
    const metrics = new PromMetrics({ processMetrics: true });
    const hash = new NodeHash();
    const shared = { logger, clock, metrics };
    this.#keeper = keeper;
    this.#link = new AgentLink(shared, {
      path: requireAgentSocket(config),
      readTimeoutMs: device.readTimeoutMs,
    });
    const local = new LocalLayers({ others: this.#link });
    const stateDir = resolve(device.stateDir);
    const dir = join(stateDir, IMAGES_FOLDER);
    const isReserved = (path: string): boolean => path === dir || path.startsWith(`${dir}/`);
    this.#devices = new DeviceService(
      { ...shared, reader: local, codec: new NodeCodec({ zstd: systemZstd }), keeper },
      { stateDir, mountFolders: [...device.mountFolders, dir], store },
    );
    const parts = { ...shared, devices: this.#devices, hash, keeper };
    this.#images = new ImageDevices({ ...parts, images: this.#link, local }, { dir });
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    this.#writable = new WritableDevices(
      { ...parts, images: this.#images, codec: new NodeCodec({ zstd: systemZstd }) },
      { dir: join(stateDir, WRITABLE_FOLDER), boot, limitBytes: device.writableSizeMax },
    );
    this.#mounts = new LinkedMounts({ ...parts, link: this.#link }, { isReserved });
    this.#snapshots = makeSnapshots(config, {
      ...{ ...parts, devices: this.#images, writable: this.#writable },
      bootId: boot,
    });
    this.#admin = makeAdminServer(
      { ...shared, status: this, mounts: this.#mounts, devices: this },
      { ...config.admin, socket: device.adminSocket, listen: device.adminListen },
      { listen: 'device.adminListen', socket: 'device.adminSocket' },
    );
  }

  async start(): Promise<void> {
    this.#link.start();
    // First, since containerd waits a second for a connection, and longer for an answer.
    await this.#snapshots?.server.start();
    await this.#devices.start();
    this.#images.start();
    await this.#writable.start();
    this.#mounts.start();
    // From here on every read that waits is answered.
    this.#keeper.ready();
    await this.#snapshots?.snapshotter.start();
    this.#snapshots?.ready();
    await this.#images.settled();
    await this.#admin.start();
    this.#notReady = undefined;
  }

  async stop(): Promise<void> {
    this.#notReady = 'the process is stopping';
    await this.#endSnapshots({ handsOver: false });
    await this.#writable.stop();
    this.#images.stop();
    await this.#devices.stop();
    this.#link.stop();
    await this.#admin.stop();
  }

  /** Ends what is in hand; a new process is about to go on with the devices. */
  async yield(): Promise<void> {
    this.#notReady = 'a new process is taking over';
    await this.#endSnapshots({ handsOver: true });
    await this.#admin.stop();
  }

  async #endSnapshots(how: { readonly handsOver: boolean }): Promise<void> {
    await this.#snapshots?.server.stop(how);
    await this.#snapshots?.snapshotter.stop();
  }

  list(): readonly ContainerDevice[] {
    return [...this.#images.list(), ...this.#writable.list()];
  }

  notReady(): string | undefined {
    return this.#notReady;
  }
}

/** containerd's snapshotter; undefined where the configuration wants none. */
function makeSnapshots(
  { device }: Config,
  parts: Omit<SnapshotterComponents, 'store'> & {
    readonly keeper: KeptDescriptors;
    readonly bootId: string;
  },
): Snapshots | undefined {
  const { snapshotsDir: stateDir, snapshotterSocket: socketPath } = device;
  if (socketPath === NO_SOCKET) return undefined;
  const store = new SqliteStore({ path: join(stateDir, METADATA_FILE) });
  const { bootId } = parts;
  const init = { stateDir, bootId, overlayOptions: overlayOptions() };
  const snapshotter = new Snapshotter({ ...parts, store }, init);
  const { promise: ready, resolve } = Promise.withResolvers<void>();
  const rpc = { ...parts, snapshots: snapshotter };
  const server = new SnapshotsServer(rpc, { socketPath, ready });
  return { snapshotter, server, ready: resolve };
}

function requireAgentSocket(config: Config): string {
  const path = agentSocketOf(config);
  if (path !== undefined) return path;
  throw new ConfigError(
    'device.agentSocket must be the path of a socket: `xylem device` reads through the agent',
    { code: 'invalid-value', key: 'device.agentSocket' },
  );
}
