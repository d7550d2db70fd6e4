import { resolve } from 'node:path';
import type { DeviceService } from '../../device/device-service.ts';
import type { AgentLink } from '../../device/link/agent-link.ts';
import type { OpenedLink } from '../../device/link/image-opens.ts';
import { digestOf } from '../../image/digest.ts';
import { blockLayers, parseManifest } from '../../image/manifest.ts';
import type { Hash } from '../../runtime/codec.ts';
import type { Logger } from '../../runtime/logger.ts';
import { errorText } from '../../util/errors.ts';
import type { MountedImage } from '../admin/answers.ts';
import { RequestError } from '../admin/errors.ts';
import type { MountService } from '../admin/services.ts';

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
  readonly #logger: Logger;
  /** Folders of containers' devices: not for people. */
  readonly #isReserved: (dir: string) => boolean;
  readonly #opened = new Map<string, Promise<OpenedLink>>();

  constructor(
    components: {
      devices: DeviceService;
      link: Pick<AgentLink, 'open'>;
      hash: Hash;
      logger: Logger;
    },
    init: { isReserved: (dir: string) => boolean },
  ) {
    this.#devices = components.devices;
    this.#link = components.link;
    this.#hash = components.hash;
    this.#logger = components.logger;
    this.#isReserved = init.isReserved;
  }

  start(): void {
    for (const { dir, image } of this.#devices.mounted()) {
      if (this.#isReserved(dir)) continue;
      const { reference, manifest } = image;
      const wanted = { reference, layers: blockLayers(manifest) };
      const opening = this.#link.open(wanted, new AbortController().signal);
      opening.catch((error: unknown) =>
        this.#logger.error(
          { reference, dir, error: errorText(error) },
          'an image that is mounted cannot be opened again: mount it anew',
        ),
      );
      this.#opened.set(dir, opening);
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
      this.#opened.set(path, Promise.resolve(opened));
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
    const opened = this.#opened.get(path);
    this.#opened.delete(path);
    await opened?.then(
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
