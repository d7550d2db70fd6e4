import { resolve } from 'node:path';
import type { BlockStore } from '../../blockstore/store.ts';
import type { DeviceService } from '../../device/device-service.ts';
import type { Digest } from '../../image/digest.ts';
import type { Hash } from '../../runtime/codec.ts';
import type { TransferEngine } from '../../transfer/drive/engine.ts';
import { openImage } from '../../transfer/read/open-image.ts';
import type { MountedImage } from './answers.ts';
import type { MountService } from './services.ts';

/** Mounts images on this host: resolves them, joins their trees, and gives them to the device service. */
export class ImageMounts implements MountService {
  readonly #engine: TransferEngine;
  readonly #devices: DeviceService;
  readonly #hash: Hash;
  readonly #store: Pick<BlockStore, 'retain' | 'release'>;
  readonly #opened = new Map<string, readonly Digest[]>();

  constructor(components: {
    engine: TransferEngine;
    devices: DeviceService;
    hash: Hash;
    store: Pick<BlockStore, 'retain' | 'release'>;
  }) {
    this.#engine = components.engine;
    this.#devices = components.devices;
    this.#hash = components.hash;
    this.#store = components.store;
  }

  async mount(image: string, dir: string, signal: AbortSignal): Promise<MountedImage> {
    const path = resolve(dir);
    const resolved = await this.#engine.tree.resolve(image.replace(/^docker:\/\//, ''));
    signal.throwIfAborted();
    const digests = await openImage({ engine: this.#engine, hash: this.#hash }, resolved, signal);
    this.#store.retain(digests);
    try {
      const mounted = await this.#devices.mount(resolved, path);
      this.#opened.set(path, digests);
      return toMountedImage(image, mounted);
    } catch (error) {
      this.#close(digests);
      throw error;
    }
  }

  async unmount(dir: string): Promise<void> {
    const path = resolve(dir);
    await this.#devices.unmount(path);
    this.#close(this.#opened.get(path) ?? []);
    this.#opened.delete(path);
  }

  list(): readonly MountedImage[] {
    return this.#devices.list().map((mounted) => toMountedImage(mounted.reference, mounted));
  }

  #close(digests: readonly Digest[]): void {
    this.#engine.tree.close(digests);
    this.#store.release(digests);
  }
}

function toMountedImage(
  image: string,
  mounted: { digest: Digest; dir: string; device: string; sizeBytes: number },
): MountedImage {
  const { digest, dir, device, sizeBytes } = mounted;
  return { image, digest, dir, device, sizeBytes };
}
