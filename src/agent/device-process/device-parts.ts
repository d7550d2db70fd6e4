import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { DeviceService } from '../../device/device-service.ts';
import { ImageDevices } from '../../device/image-devices.ts';
import type { KeptDescriptors } from '../../device/keeper/kept-descriptors.ts';
import { AgentLink } from '../../device/link/agent-link.ts';
import { LocalLayers } from '../../device/local-layers.ts';
import { WritableDevices } from '../../device/writable-devices.ts';
import { systemZstd } from '../../device/system-zstd.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import { NodeCodec } from '../../runtime/node/codec.ts';
import { NodeHash } from '../../runtime/node/hash.ts';
import { PromMetrics } from '../admin/prom-metrics.ts';
import { storeOf, type DeviceSettings } from './device-settings.ts';

/** Folder of the devices of containers, below the state folder. */
const IMAGES_FOLDER = 'images';

/** Folder of writable devices, below the state folder. */
const WRITABLE_FOLDER = 'writable';

/**
 * What answers the reads of a host's devices: all that a new process needs to go on with those of
 * one that died.
 *
 * Life: constructed -> `start()` -> `stop()`.
 */
export class DeviceParts {
  readonly metrics = new PromMetrics({ processMetrics: true });
  readonly link: AgentLink;
  readonly devices: DeviceService;
  readonly images: ImageDevices;
  readonly writable: WritableDevices;
  /** Another after each reboot. */
  readonly bootId = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  /** Folder of the devices of containers. */
  readonly imagesDir: string;
  #isStarted = false;

  constructor(
    components: { logger: Logger; clock: Clock; keeper: KeptDescriptors },
    settings: DeviceSettings,
  ) {
    const { backend, stateDir, mountFolders, agentSocket, readTimeoutMs } = settings;
    const shared = { ...components, metrics: this.metrics };
    this.link = new AgentLink(shared, { path: agentSocket, readTimeoutMs });
    const local = new LocalLayers({ others: this.link });
    this.imagesDir = join(stateDir, IMAGES_FOLDER);
    const codec = new NodeCodec({ zstd: systemZstd });
    this.devices = new DeviceService(
      { ...shared, reader: local, codec },
      {
        ...{ backend, stateDir, mountFolders: [...mountFolders, this.imagesDir] },
        store: storeOf(settings),
      },
    );
    this.images = new ImageDevices(
      { ...shared, devices: this.devices, images: this.link, local },
      { dir: this.imagesDir },
    );
    this.writable = new WritableDevices(
      { ...shared, devices: this.devices, images: this.images, codec, hash: new NodeHash() },
      {
        ...{ dir: join(stateDir, WRITABLE_FOLDER), boot: this.bootId },
        limitBytes: settings.writableSizeMax,
      },
    );
  }

  /** Goes on with the devices of an earlier process; does nothing the second time. */
  async start(): Promise<void> {
    if (this.#isStarted) return;
    this.#isStarted = true;
    this.link.start();
    await this.devices.start();
    this.images.start();
    await this.writable.start();
  }

  async stop(): Promise<void> {
    await this.writable.stop();
    this.images.stop();
    await this.devices.stop();
    this.link.stop();
  }
}
