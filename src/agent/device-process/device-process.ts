import { join } from 'node:path';
import type { KeptDescriptors } from '../../device/keeper/kept-descriptors.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import { NodeHash } from '../../runtime/node/hash.ts';
import { overlayOptions } from '../../snapshotter/files/overlay-options.ts';
import { SnapshotsServer } from '../../snapshotter/rpc/snapshots-server.ts';
import { Snapshotter, type SnapshotterComponents } from '../../snapshotter/snapshotter.ts';
import { SqliteStore } from '../../snapshotter/store/sqlite-store.ts';
import { makeAdminServer, type AdminServer } from '../admin/admin-server.ts';
import type { ContainerDevice } from '../admin/answers.ts';
import type { DeviceList, Readiness } from '../admin/services.ts';
import { NO_SOCKET } from '../config/admin-socket.ts';
import type { Config } from '../config/config-schema.ts';
import type { Service } from '../run.ts';
import type { DeviceParts } from './device-parts.ts';
import { LinkedMounts } from './linked-mounts.ts';

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
  /** Started or not. */
  readonly parts: DeviceParts;
}

/**
 * The process that owns a host's block devices. It reads what the agent's store holds by itself,
 * and asks the agent for the rest.
 *
 * Life: constructed -> `start()`, in this order: socket for containerd, link to the agent, mounts
 * of an earlier process, admin endpoint, snapshots -> `stop()`, which unmounts everything, or
 * `yield()`, which leaves all to the next process.
 */
export class DeviceProcess implements Service, Readiness, DeviceList {
  readonly #keeper: KeptDescriptors;
  readonly #parts: DeviceParts;
  readonly #mounts: LinkedMounts;
  readonly #snapshots: Snapshots | undefined;
  readonly #admin: AdminServer;
  #isEnding = false;
  #notReady: string | undefined = 'the devices of an earlier process are being taken over';

  constructor(config: Config, components: Components) {
    const { logger, clock, keeper, parts } = components;
    const { device } = config;
    const { metrics, link, devices, images, writable, imagesDir } = parts;
    const shared = { logger, clock, metrics, hash: new NodeHash(), keeper };
    this.#keeper = keeper;
    this.#parts = parts;
    const isReserved = (path: string): boolean =>
      path === imagesDir || path.startsWith(`${imagesDir}/`);
    this.#mounts = new LinkedMounts({ ...shared, devices, link }, { isReserved });
    this.#snapshots = makeSnapshots(config, {
      ...{ ...shared, devices: images, writable },
      bootId: parts.bootId,
    });
    this.#admin = makeAdminServer(
      { ...shared, status: this, mounts: this.#mounts, devices: this },
      { ...config.admin, socket: device.adminSocket, listen: device.adminListen },
      { listen: 'device.adminListen', socket: 'device.adminSocket' },
    );
  }

  async start(): Promise<void> {
    // First, since containerd waits a second for a connection, and longer for an answer.
    await this.#snapshots?.server.start();
    await this.#parts.start();
    this.#mounts.start();
    await this.#admin.start();
    await this.#snapshots?.snapshotter.start();
    // Of devices of an earlier process the keeper knows before. A first start that fails is the
    // last.
    this.#keeper.ready();
    this.#snapshots?.ready();
    void this.#settle();
    this.#notReady = undefined;
  }

  /** Unmounts what no snapshot has, once all have their devices again. Never rejects. */
  async #settle(): Promise<void> {
    await this.#snapshots?.snapshotter.heldAgain;
    if (this.#isEnding) return;
    await this.#parts.images.settled();
  }

  async stop(): Promise<void> {
    this.#isEnding = true;
    this.#notReady = 'the process is stopping';
    await this.#endSnapshots({ handsOver: false });
    await this.#parts.stop();
    await this.#admin.stop();
  }

  /** Ends what is in hand; a new process is about to go on with the devices. */
  async yield(): Promise<void> {
    this.#isEnding = true;
    this.#notReady = 'a new process is taking over';
    await this.#endSnapshots({ handsOver: true });
    await this.#admin.stop();
  }

  async #endSnapshots(how: { readonly handsOver: boolean }): Promise<void> {
    await this.#snapshots?.server.stop(how);
    await this.#snapshots?.snapshotter.stop();
  }

  list(): readonly ContainerDevice[] {
    const names = this.#snapshots?.snapshotter.holderNames();
    const nameOf = (holder: string): string => names?.get(holder) ?? holder;
    const devices = [...this.#parts.images.list(), ...this.#parts.writable.list()];
    return devices.map((device) => ({ ...device, holders: device.holders.map(nameOf) }));
  }

  /** Whether there are devices, its own or those of an earlier process. */
  get hasDevices(): boolean {
    const { images, writable } = this.#parts;
    return images.list().length + writable.list().length > 0 || this.#keeper.inherited.size > 0;
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
