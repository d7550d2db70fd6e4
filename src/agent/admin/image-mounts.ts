import { resolve } from 'node:path';
import type { BlockStore } from '../../blockstore/store.ts';
import type { DeviceService } from '../../device/device-service.ts';
import type { Digest } from '../../image/digest.ts';
import type { ResolvedImage } from '../../image/manifest.ts';
import type { Codec, Hash } from '../../runtime/codec.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { TransferEngine } from '../../transfer/drive/engine.ts';
import { openImage, type OpenedImage } from '../../transfer/read/open-image.ts';
import type { MountedImage } from './answers.ts';
import type { MountService } from './services.ts';

/**
 * Mounts images on this host: resolves them, joins their trees, and gives them to the device
 * service.
 */
export class ImageMounts implements MountService {
  readonly #engine: TransferEngine;
  readonly #devices: DeviceService;
  readonly #hash: Hash;
  readonly #codec: Codec;
  readonly #logger: Logger;
  readonly #store: Pick<BlockStore, 'retain' | 'release'>;
  readonly #opened = new Map<string, OpenedImage>();

  constructor(components: {
    engine: TransferEngine;
    devices: DeviceService;
    hash: Hash;
    codec: Codec;
    logger: Logger;
    store: Pick<BlockStore, 'retain' | 'release'>;
  }) {
    this.#engine = components.engine;
    this.#devices = components.devices;
    this.#hash = components.hash;
    this.#codec = components.codec;
    this.#logger = components.logger;
    this.#store = components.store;
  }

  async mount(image: string, dir: string, signal: AbortSignal): Promise<MountedImage> {
    const path = resolve(dir);
    this.#devices.requireAllowed(path);
    const resolved = await this.#engine.tree.resolve(image.replace(/^docker:\/\//, ''));
    signal.throwIfAborted();
    const opened = await this.#open(resolved, signal);
    this.#store.retain(opened.digests);
    try {
      const mounted = await this.#devices.mount(resolved, path);
      this.#opened.set(path, opened);
      return toMountedImage(image, mounted);
    } catch (error) {
      this.#close(opened);
      throw error;
    }
  }

  async unmount(dir: string): Promise<void> {
    const path = resolve(dir);
    await this.#devices.unmount(path);
    const opened = this.#opened.get(path);
    this.#opened.delete(path);
    if (opened !== undefined) this.#close(opened);
  }

  list(): readonly MountedImage[] {
    return this.#devices.list().map((mounted) => toMountedImage(mounted.reference, mounted));
  }

  #open(image: ResolvedImage, signal: AbortSignal): Promise<OpenedImage> {
    const engine = this.#engine;
    const order = engine.order.bind(engine);
    const trace = { codec: this.#codec, logger: this.#logger, order };
    return openImage({ engine, hash: this.#hash, trace }, image, signal);
  }

  #close(opened: OpenedImage): void {
    opened.close();
    this.#store.release(opened.digests);
  }
}

function toMountedImage(
  image: string,
  mounted: { digest: Digest; dir: string; device: string; sizeBytes: number },
): MountedImage {
  const { digest, dir, device, sizeBytes } = mounted;
  return { image, digest, dir, device, sizeBytes };
}
