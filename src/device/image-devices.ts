import { join } from 'node:path';
import { parseDigest, type Digest } from '../image/digest.ts';
import { LAYER_MEDIA_TYPE, MANIFEST_MEDIA_TYPES, type DeviceImage } from '../image/manifest.ts';
import type { Clock, Timer } from '../runtime/clock.ts';
import type { Logger } from '../runtime/logger.ts';
import { defined } from '../util/assert.ts';
import { errorText } from '../util/errors.ts';
import { orAbort } from '../util/or-abort.ts';
import type { DeviceService } from './device-service.ts';
import { DeviceError, notRunning, notUsable } from './errors.ts';
import {
  chainOf,
  FILE_ANNOTATION,
  isStart,
  MANIFEST_ANNOTATION,
  type Chain,
  type ChainLayer,
  type ImageOpener,
  type Opened,
} from './image-chain.ts';
import { ImageChecks, type OpenChain } from './image-checks.ts';
import type { LocalLayers } from './local-layers.ts';
import type { MountReads } from './mount-reads.ts';

/**
 * Waits before a device that nobody holds, and that is in use all the same, is unmounted again, in
 * milliseconds: its users are about to end. Each try is a process; the last wait repeats.
 */
const UNMOUNT_RETRY_MS = [2_000, 2_000, 5_000, 10_000, 30_000, 60_000];

interface Device {
  readonly chainId: string;
  readonly reference: string;
  readonly layers: readonly ChainLayer[];
  readonly dir: string;
  readonly holders: Set<string>;
  /** It was mounted before this process began. */
  readonly isTakenOver: boolean;
  /** Resolves when the device is mounted. */
  mounting: Promise<void>;
  opened: Promise<Opened>;
  /** Set while it is being unmounted; never rejects. */
  leaving: Promise<void> | undefined;
  retry: Timer | undefined;
  refused: Refused | undefined;
}

/** A device that nobody holds, and that cannot be unmounted. */
interface Refused {
  readonly count: number;
  readonly reason: string;
  /** Something went wrong half-way, so that it may not be mounted any more. */
  readonly isBroken: boolean;
}

/** A device in use, for lists. */
export interface HeldDevice {
  readonly image: string;
  readonly chainId: Digest;
  readonly dir: string;
  readonly device: string;
  /** Bytes of the block device. */
  readonly sizeBytes: number;
  readonly holders: readonly string[];
  /** How its only holder writes to it; absent for one that is read alone. */
  readonly writable?: 'dir' | 'dev';
  /** Why it cannot be unmounted although nobody holds it, and how often that was tried. */
  readonly refused?: { readonly count: number; readonly reason: string };
  readonly reads: MountReads;
}

/**
 * One read-only device for each image in use, shared by all its holders: mounted for the first, and
 * unmounted after the last.
 *
 * Life: `start()`, after the device service, takes over the devices of an earlier process -> its
 * holders are named again by `hold()` -> `settled()`, which unmounts devices that nobody has named
 * -> `hold()`, `drop()` -> `stop()`, before the device service.
 */
export class ImageDevices {
  readonly #devices: DeviceService;
  readonly #images: ImageOpener;
  readonly #local: LocalLayers;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #dir: string;
  readonly #byChain = new Map<string, Device>();
  readonly #byHolder = new Map<string, Device>();
  readonly #checks: ImageChecks;
  readonly #stopping = new AbortController();

  /** `dir`: the folder below which devices are mounted, one that the device service allows. */
  constructor(
    components: {
      devices: DeviceService;
      images: ImageOpener;
      local: LocalLayers;
      clock: Clock;
      logger: Logger;
    },
    init: { dir: string },
  ) {
    this.#devices = components.devices;
    this.#images = components.images;
    this.#local = components.local;
    this.#clock = components.clock;
    this.#logger = components.logger;
    this.#dir = init.dir;
    const { signal } = this.#stopping;
    const open: OpenChain = (chain, limit = signal) => this.#open(chain, limit);
    this.#checks = new ImageChecks({ ...components, open });
  }

  start(): void {
    for (const { dir, image } of this.#devices.mounted()) {
      const chain = chainOf(image);
      if (dir !== this.#dirOf(chain.chainId)) continue;
      const opened = this.#open(chain, this.#stopping.signal, { isMounted: true });
      opened.catch(() => {}); // The devices are being stopped.
      this.#byChain.set(chain.chainId, {
        ...{ chainId: chain.chainId, reference: chain.reference, layers: chain.layers },
        ...{
          dir,
          opened,
          holders: new Set(),
          isTakenOver: true,
          mounting: Promise.resolve(),
          leaving: undefined,
        },
        ...{ retry: undefined, refused: undefined },
      });
    }
  }

  /** All holders of an earlier process have been named again. */
  async settled(): Promise<void> {
    const unused = [...this.#byChain.values()].filter(({ holders }) => holders.size === 0);
    await Promise.all(unused.map((device) => this.#unmount(device)));
    this.#images.settled();
  }

  /** `ImageChecks.check()`, unless the device is mounted. */
  async check(chain: Chain, signal: AbortSignal): Promise<void> {
    const mounted = this.#byChain.get(chain.chainId);
    if (mounted !== undefined && isStart(chain.layers, mounted.layers)) return;
    await this.#checks.check(chain, signal);
  }

  /** `ImageChecks.checkTrace()` */
  checkTrace(...trace: Parameters<ImageChecks['checkTrace']>): Promise<void> {
    return this.#checks.checkTrace(...trace);
  }

  /**
   * Mounts the device for its first holder, and shares it afterwards. `holder` is a durable name;
   * the same holder twice is one hold. Rejects with a CodedError; the holder then has no hold.
   */
  async hold(chain: Chain, holder: string, signal: AbortSignal): Promise<{ readonly dir: string }> {
    const had = this.#byHolder.get(holder);
    if (had !== undefined && had.chainId !== chain.chainId) await this.drop(holder);
    await this.#byChain.get(chain.chainId)?.leaving;
    if (this.#stopping.signal.aborted) throw notRunning();
    const device = this.#byChain.get(chain.chainId) ?? this.#add(chain);
    const { refused } = device;
    if (refused?.isBroken === true) throw notUsable(device.dir, refused.reason);
    device.retry?.cancel();
    device.refused = undefined;
    device.holders.add(holder);
    this.#byHolder.set(holder, device);
    try {
      await orAbort(device.mounting, signal);
      return { dir: device.dir };
    } catch (error) {
      await this.drop(holder);
      throw error;
    }
  }

  /** Takes a hold of an earlier process again; false when the device is not mounted. */
  resume({ chainId }: Chain, holder: string): boolean {
    const device = this.#byChain.get(chainId);
    if (device?.isTakenOver !== true || this.#byHolder.has(holder)) return false;
    device.holders.add(holder);
    this.#byHolder.set(holder, device);
    return true;
  }

  /** Ends a hold; the last one unmounts. Does nothing for an unknown holder. Never rejects. */
  async drop(holder: string): Promise<void> {
    const device = this.#byHolder.get(holder);
    if (device === undefined) return;
    this.#byHolder.delete(holder);
    device.holders.delete(holder);
    if (device.holders.size === 0) await this.#unmount(device);
  }

  /** The mounted devices. */
  list(): readonly HeldDevice[] {
    return this.#devices.list().flatMap(({ reference, digest, dir, device, sizeBytes }) => {
      const held = this.#byChain.get(digest);
      const reads = this.#devices.reads(dir);
      if (held === undefined || reads === undefined || dir !== this.#dirOf(digest)) return [];
      const what = { image: reference, chainId: digest, dir, device, sizeBytes };
      const { count, reason } = held.refused ?? {};
      const refused =
        count === undefined || reason === undefined ? {} : { refused: { count, reason } };
      return [{ ...what, holders: [...held.holders], ...refused, reads }];
    });
  }

  /** Lets images go; the device service unmounts. */
  stop(): void {
    this.#stopping.abort(notRunning());
    this.#checks.stop();
    for (const device of this.#byChain.values()) device.retry?.cancel();
  }

  #add(chain: Chain): Device {
    const dir = this.#dirOf(chain.chainId);
    const opened = this.#checks.take(chain) ?? this.#open(chain, this.#stopping.signal);
    const mounting = opened.then(async () => {
      await this.#devices.mount(this.#imageOf(chain), dir);
    });
    const device: Device = {
      ...{ chainId: chain.chainId, reference: chain.reference, layers: chain.layers },
      ...{ dir, opened, mounting, isTakenOver: false },
      ...{ holders: new Set<string>(), leaving: undefined, retry: undefined, refused: undefined },
    };
    this.#byChain.set(chain.chainId, device);
    mounting.catch(() => this.#forget(device)); // Its holders have the error.
    return device;
  }

  /** Never rejects. */
  async #unmount(device: Device): Promise<void> {
    try {
      await device.mounting;
    } catch {
      return; // It was never mounted.
    }
    if (device.holders.size > 0 || this.#byChain.get(device.chainId) !== device) return;
    device.leaving ??= this.#leave(device).finally(() => {
      device.leaving = undefined;
    });
    await device.leaving;
  }

  async #leave(device: Device): Promise<void> {
    const { dir, reference } = device;
    try {
      await this.#devices.unmount(dir);
      this.#forget(device);
    } catch (error) {
      const { count: before = 0, reason: last } = device.refused ?? {};
      const [count, reason] = [before + 1, errorText(error)];
      const isBroken = !(error instanceof DeviceError && error.code === 'busy');
      device.refused = { count, reason, isBroken };
      const retryMs = UNMOUNT_RETRY_MS[Math.min(count, UNMOUNT_RETRY_MS.length) - 1] ?? 0;
      const text = 'cannot unmount a device that nobody holds yet: trying again';
      if (reason !== last) this.#logger.warn({ reference, error: reason, count, retryMs }, text);
      device.retry = this.#clock.setTimer(retryMs, () => void this.#unmount(device));
    }
  }

  #forget(device: Device): void {
    if (this.#byChain.get(device.chainId) === device) this.#byChain.delete(device.chainId);
    for (const holder of device.holders) this.#byHolder.delete(holder);
    device.opened.then(
      (opened) => opened.close(),
      () => {},
    );
  }

  async #open(chain: Chain, signal: AbortSignal, options = { isMounted: false }): Promise<Opened> {
    const { reference, manifestDigest, layers } = chain;
    const files = layers.filter(({ file }) => file !== undefined);
    for (const { digest, file } of files) this.#local.add(digest, file ?? '');
    const closeFiles = (): void => {
      for (const { digest } of files) this.#local.remove(digest);
    };
    if (files.length === layers.length) return { close: closeFiles };
    try {
      const blobs = layers.filter(({ file }) => file === undefined);
      const image = { reference, manifestDigest, layers: blobs };
      const opened = await this.#images.open(image, signal, options);
      return {
        manifest: opened.manifest,
        close: () => {
          opened.close();
          closeFiles();
        },
      };
    } catch (error) {
      closeFiles();
      throw error;
    }
  }

  #imageOf(chain: Chain): DeviceImage {
    const layers = chain.layers.map(({ digest, sizeBytes, file }) => ({
      mediaType: LAYER_MEDIA_TYPE,
      digest,
      size: file === undefined ? sizeBytes : this.#local.sizeOf(digest),
      annotations: {
        ...(file !== undefined && { [FILE_ANNOTATION]: file }),
      },
    }));
    const config = defined(layers[0], 'a chain has a layer');
    const { manifestDigest } = chain;
    const manifest = {
      ...{ mediaType: MANIFEST_MEDIA_TYPES[0], config, layers },
      annotations: { ...(manifestDigest && { [MANIFEST_ANNOTATION]: manifestDigest }) },
    };
    const digest = defined(parseDigest(chain.chainId), 'a chain id is a digest');
    return { reference: chain.reference, digest, manifest };
  }

  /**
   * Opens the layers of a chain for a device of another kind, until its end. Rejects with a
   * CodedError.
   */
  async openChain(
    chain: Chain,
    signal: AbortSignal,
    options?: { readonly isMounted: boolean },
  ): Promise<Opened & { readonly image: DeviceImage }> {
    const opened = await this.#open(chain, signal, options);
    return { image: this.#imageOf(chain), close: () => opened.close() };
  }

  #dirOf(chainId: string): string {
    return join(this.#dir, chainId.replace(':', '-'));
  }
}
