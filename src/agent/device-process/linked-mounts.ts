import { resolve } from 'node:path';
import type { DeviceService } from '../../device/device-service.ts';
import type { AgentLink } from '../../device/link/agent-link.ts';
import type { OpenedLink } from '../../device/link/image-opens.ts';
import { digestOf } from '../../image/digest.ts';
import { blockLayers, parseManifest } from '../../image/manifest.ts';
import type { Hash } from '../../runtime/codec.ts';
import type { MountedImage } from '../admin/answers.ts';
import { RequestError } from '../admin/errors.ts';
import type { MountService } from '../admin/services.ts';

/** An image that is open, or that waits for the agent until it is unmounted. */
interface Opening {
  readonly opened: Promise<OpenedLink>;
  readonly ending: AbortController;
}

/**
 * Images that people mount through the device process (`xylem mount`), beside those of containers.
 *
 * Life: `start()`, after the device service, opens again what an earlier process had mounted ->
 * calls.
 */
export class LinkedMounts implements MountService {
  readonly #devices: DeviceService;
  readonly #link: Pick<AgentLink, 'open'>;
  readonly #hash: Hash;
  /** Folders of containers' devices: not for people. */
  readonly #isReserved: (dir: string) => boolean;
  readonly #opened = new Map<string, Opening>();

  constructor(
    components: {
      devices: DeviceService;
      link: Pick<AgentLink, 'open'>;
      hash: Hash;
    },
    init: { isReserved: (dir: string) => boolean },
  ) {
    this.#devices = components.devices;
    this.#link = components.link;
    this.#hash = components.hash;
    this.#isReserved = init.isReserved;
  }

  start(): void {
    for (const { dir, image } of this.#devices.mounted()) {
      if (this.#isReserved(dir)) continue;
      const { reference, digest, manifest } = image;
      const wanted = { reference, manifestDigest: digest, layers: blockLayers(manifest) };
      const ending = new AbortController();
      const opened = this.#link.open(wanted, ending.signal, { isMounted: true });
      opened.catch(() => {}); // It was unmounted, or the link was stopped.
      this.#opened.set(dir, { opened, ending });
    }
  }

  async mount(image: string, dir: string, signal: AbortSignal): Promise<MountedImage> {
    const path = resolve(dir);
    this.#devices.requireAllowed(path);
    if (this.#isReserved(path)) {
      throw new RequestError(`${dir} is for the devices of containers`, { code: 'bad-request' });
    }
    const reference = image.replace(/^docker:\/\//, '');
    const opened = await this.#link.open({ reference, layers: [] }, signal);
    try {
      if (opened.manifest === undefined) {
        throw new RequestError(`the agent has no manifest of ${image}`, { code: 'not-found' });
      }
      const manifest = parseManifest(opened.manifest);
      const digest = digestOf(this.#hash, opened.manifest);
      const mounted = await this.#devices.mount({ reference, digest, manifest }, path);
      this.#opened.set(path, { opened: Promise.resolve(opened), ending: new AbortController() });
      return { ...mounted, image };
    } catch (error) {
      opened.close();
      throw error;
    }
  }

  async unmount(dir: string): Promise<void> {
    const path = resolve(dir);
    if (this.#isReserved(path)) {
      throw new RequestError(`${dir} is the device of containers`, { code: 'bad-request' });
    }
    await this.#devices.unmount(path);
    const { opened, ending } = this.#opened.get(path) ?? {};
    this.#opened.delete(path);
    ending?.abort();
    opened?.then(
      (open) => open.close(),
      () => {},
    );
  }

  list(): readonly MountedImage[] {
    return this.#devices
      .list()
      .filter(({ dir }) => !this.#isReserved(dir))
      .map(({ reference, digest, dir, device, sizeBytes }) => ({
        ...{ image: reference, digest, dir, device, sizeBytes },
      }));
  }
}
