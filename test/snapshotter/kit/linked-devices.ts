import { join } from 'node:path';
import { DeviceService } from '../../../src/device/device-service.ts';
import { ImageDevices } from '../../../src/device/image-devices.ts';
import { AgentLink } from '../../../src/device/link/agent-link.ts';
import { LocalLayers } from '../../../src/device/local-layers.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { silentMetrics } from '../../../src/runtime/metrics.ts';
import { SystemClock } from '../../../src/runtime/node/clock.ts';
import { codec } from '../../kit/layers.ts';

/** The devices of a host, as `xylem device` puts them together, in this process. */
export class LinkedDevices {
  readonly images: ImageDevices;
  readonly #service: DeviceService;
  readonly #link: AgentLink;

  /** `folder`: for mounts. `agentSocket`: where an agent serves devices. */
  constructor(init: { folder: string; agentSocket: string }) {
    const shared = { clock: new SystemClock(), logger: silentLogger, metrics: silentMetrics };
    const dir = join(init.folder, 'images');
    this.#link = new AgentLink(shared, { path: init.agentSocket });
    const local = new LocalLayers({ others: this.#link });
    this.#service = new DeviceService(
      { ...shared, codec, reader: local },
      { stateDir: join(init.folder, 'device'), mountFolders: [dir] },
    );
    this.images = new ImageDevices(
      { ...shared, devices: this.#service, images: this.#link, local },
      { dir },
    );
  }

  async start(): Promise<void> {
    this.#link.start();
    await this.#service.start();
    this.images.start();
    await this.images.settled();
  }

  async stop(): Promise<void> {
    this.images.stop();
    await this.#service.stop();
    this.#link.stop();
  }

  /** The holders of each device, by its chain id. */
  holders(): Readonly<Record<string, readonly string[]>> {
    return Object.fromEntries(
      this.images.list().map(({ chainId, holders }) => [chainId, holders] as const),
    );
  }
}
