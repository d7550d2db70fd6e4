import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { dirname, resolve } from 'node:path';
import type { Leases } from '../../blockstore/leases.ts';
import type { BlockStore } from '../../blockstore/store.ts';
import { CONNECTIONS_MAX } from '../../device/link/limits.ts';
import type { Codec, Hash } from '../../runtime/codec.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { Metrics } from '../../runtime/metrics.ts';
import type { Manifests } from '../../edge/mirror/manifests.ts';
import type { TransferEngine } from '../../transfer/drive/engine.ts';
import type { BlobReader } from '../../transfer/contracts/blob-reader.ts';
import { NO_SOCKET } from '../config/admin-socket.ts';
import type { Config } from '../config/config-schema.ts';
import { agentSocketOf } from '../config/device-keys.ts';
import { OwnerSocket, type SocketPlace } from '../owner-socket.ts';
import { packageVersion } from '../version.ts';
import { DeviceConnection } from './connection.ts';
import { DeviceImages } from './device-images.ts';
import { deviceSocketMetrics, type DeviceSocketMetrics } from './metrics.ts';

interface Components {
  readonly reader: Pick<BlobReader, 'read'>;
  readonly images: Pick<DeviceImages, 'open' | 'close' | 'lose' | 'has'>;
  readonly leases: Pick<Leases, 'settle'>;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

/**
 * The Unix socket on which device processes of this host read blobs, past the rights of clients:
 * a process that may open it reads all that the agent may.
 *
 * Life: constructed -> `start()` (listens; rejects with ListenError) -> `stop()` (closes every
 * connection; the blobs of what they have open stay leased).
 */
export class DeviceSocket {
  readonly #components: Components;
  readonly #metrics: DeviceSocketMetrics;
  readonly #agent: string;
  readonly #server: Server;
  readonly #socket: OwnerSocket;
  readonly #connections = new Set<DeviceConnection>();
  #imageCount = 0;

  /** `agent`: the version that device processes are told. */
  constructor(
    components: Components,
    init: { readonly place: SocketPlace; readonly agent: string },
  ) {
    this.#components = components;
    this.#metrics = deviceSocketMetrics(components.metrics);
    this.#agent = init.agent;
    this.#server = createServer({ allowHalfOpen: false }, (socket) => this.#onConnection(socket));
    this.#server.maxConnections = CONNECTIONS_MAX;
    this.#socket = new OwnerSocket(init.place);
    this.#show();
  }

  async start(): Promise<void> {
    await this.#socket.open(this.#server);
  }

  async stop(): Promise<void> {
    if (this.#server.listening) {
      const end = once(this.#server, 'close');
      this.#server.close();
      for (const connection of [...this.#connections]) connection.close();
      await end;
    }
    await this.#socket.close();
  }

  #onConnection(socket: Socket): void {
    const { leases } = this.#components;
    const connection = new DeviceConnection(
      {
        ...{ ...this.#components, metrics: this.#metrics },
        onSettled: () => leases.settle(),
        onImages: (change) => {
          this.#imageCount += change;
          this.#show();
        },
      },
      { socket, agent: this.#agent },
    );
    this.#connections.add(connection);
    this.#show();
    socket.once('close', () => {
      this.#connections.delete(connection);
      this.#show();
    });
  }

  #show(): void {
    this.#metrics.connections.set({}, this.#connections.size);
    this.#metrics.images.set({}, this.#imageCount);
  }
}

/** The device socket as the configuration describes it; undefined when there is to be none. */
export function makeDeviceSocket(
  components: Omit<Components, 'images' | 'reader'> & {
    readonly engine: TransferEngine;
    readonly store: Pick<BlockStore, 'blocksOf' | 'keepMatching'>;
    readonly manifests: Pick<Manifests, 'get'>;
    readonly leases: Leases;
    readonly hash: Hash;
    readonly codec: Codec;
  },
  { admin, device }: Pick<Config, 'admin' | 'device'>,
): DeviceSocket | undefined {
  const path = agentSocketOf({ admin, device });
  if (path === undefined) return undefined;
  const folder = dirname(resolve(path));
  const isFolderTaken = admin.socket !== NO_SOCKET && dirname(resolve(admin.socket)) === folder;
  const { engine: reader } = components;
  const images = new DeviceImages(components);
  return new DeviceSocket(
    { ...components, reader, images },
    { place: { path, key: 'device.agentSocket', isFolderTaken }, agent: packageVersion() },
  );
}
