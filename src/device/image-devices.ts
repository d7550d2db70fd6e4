import { join } from 'node:path';
import type { BlobRef } from '../image/block.ts';
import { parseDigest, type Digest } from '../image/digest.ts';
import {
  ACCELERATION_ANNOTATION,
  LAYER_MEDIA_TYPE,
  MANIFEST_MEDIA_TYPES,
  OVERLAYBD_ANNOTATION,
  parseManifest,
  type Descriptor,
  type DeviceImage,
} from '../image/manifest.ts';
import type { Clock, Timer } from '../runtime/clock.ts';
import type { Logger } from '../runtime/logger.ts';
import { defined } from '../util/assert.ts';
import { BoundedMap } from '../util/bounded-map.ts';
import { errorText } from '../util/errors.ts';
import { orAbort } from '../util/or-abort.ts';
import type { DeviceService } from './device-service.ts';
import { DeviceError, notRunning, notUsable } from './errors.ts';
import type { LocalLayers } from './local-layers.ts';
import type { MountReads } from './mount-reads.ts';

/**
 * How long an image stays open after a check without a device, in milliseconds: a container runtime
 * creates the container soon after the pull, and meanwhile the trace of the image is prefetched.
 */
const CHECKED_MS = 120_000;

/** Images that stay open after a check at a time. */
const CHECKED_MAX = 64;

/**
 * Waits before a device that nobody holds, and that is in use all the same, is unmounted again, in
 * milliseconds: its users are about to end. Each try is a process; the last wait repeats.
 */
const UNMOUNT_RETRY_MS = [2_000, 2_000, 5_000, 10_000, 30_000, 60_000];

/** A block layer of an image. */
interface ChainLayer {
  readonly digest: Digest;
  readonly sizeBytes: number;
  /** A file of this host that is the layer, without its tar: read instead of the blob. */
  readonly file?: string;
}

/** The block layers of an image from the bottom up to one of its layers: one device. */
export interface Chain {
  /** Chain id of the top layer (OCI image config, "Layer ChainID"): the key of the device. */
  readonly chainId: string;
  /** `host/name[:tag][@digest]`; empty only when every layer has a file. */
  readonly reference: string;
  readonly manifestDigest?: Digest;
  /** Bottom first. */
  readonly layers: readonly ChainLayer[];
}

/** Has images open, so that their blobs can be read; `AgentLink`. */
interface ImageOpener {
  open(
    image: {
      readonly reference: string;
      readonly manifestDigest?: Digest | undefined;
      readonly layers: readonly BlobRef[];
    },
    signal: AbortSignal,
    options: {
      /** It is in use: no failure is the last, and nobody asks whether it exists. */
      readonly isMounted: boolean;
    },
  ): Promise<Opened>;
  /** Everything that an earlier process had open is open again, or is no longer wanted. */
  settled(): void;
}

/** An image whose layers can be read. */
export interface Opened {
  /** When the agent could find it out. */
  readonly manifest?: Uint8Array | undefined;
  close(): void;
}

/** Layers whose ends could be read, so that they have the sizes that the chain says. */
interface Checked {
  readonly layers: readonly ChainLayer[];
  readonly opened: Promise<Opened>;
  readonly timer: Timer;
}

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
  /** By what names the image. */
  readonly #checked = new BoundedMap<string, Checked>({
    entriesMax: CHECKED_MAX,
    onEvict: (_, kept) => letGo(kept),
  });
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

  /**
   * Makes sure that the blobs of a chain can be read, and have the sizes that it says, without a
   * mount. The image stays open for a while, for its other layers, and for the container that is
   * about to start. Rejects with a CodedError.
   */
  async check(chain: Chain, signal: AbortSignal): Promise<void> {
    const mounted = this.#byChain.get(chain.chainId);
    if (mounted !== undefined && isStart(chain.layers, mounted.layers)) return;
    const kept = this.#checked.get(nameOf(chain));
    if (kept !== undefined && isStart(chain.layers, kept.layers)) {
      const isRead = await orAbort(kept.opened, signal).then(
        () => true,
        () => false, // Of which layer, the check of each one by itself says.
      );
      signal.throwIfAborted();
      if (isRead) return;
    }
    const opened = await this.#open(chain, signal);
    const whole = opened.manifest && wholeOf(opened.manifest, chain);
    if (whole === undefined) return this.#keep(chain, Promise.resolve(opened));
    // All others at a time: the runtime asks for one after the other.
    const ahead = this.#open(whole, this.#stopping.signal);
    this.#keep(whole, ahead);
    const close = (): void => opened.close();
    ahead.then(close, close);
  }

  #keep(chain: Chain, opened: Promise<Opened>): void {
    const name = nameOf(chain);
    this.#uncheck(name);
    const timer = this.#clock.setTimer(CHECKED_MS, () => this.#uncheck(name));
    this.#checked.set(name, { layers: chain.layers, opened, timer });
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
    for (const [name] of this.#checked) this.#uncheck(name);
    for (const device of this.#byChain.values()) device.retry?.cancel();
  }

  #add(chain: Chain): Device {
    const dir = this.#dirOf(chain.chainId);
    const opened = this.#taken(chain) ?? this.#open(chain, this.#stopping.signal);
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

  /** What a check has opened of just this chain, from now on the caller's. */
  #taken(chain: Chain): Promise<Opened> | undefined {
    const kept = this.#checked.get(nameOf(chain));
    if (kept?.layers.length !== chain.layers.length) return undefined;
    if (!isStart(chain.layers, kept.layers)) return undefined;
    this.#checked.delete(nameOf(chain));
    kept.timer.cancel();
    return kept.opened.catch(() => this.#open(chain, this.#stopping.signal));
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

  #uncheck(name: string): void {
    const kept = this.#checked.get(name);
    this.#checked.delete(name);
    if (kept !== undefined) letGo(kept);
  }

  #dirOf(chainId: string): string {
    return join(this.#dir, chainId.replace(':', '-'));
  }
}

function letGo({ opened, timer }: Checked): void {
  timer.cancel();
  opened.then(
    (open) => open.close(),
    () => {},
  );
}

function nameOf({ reference, manifestDigest }: Chain): string {
  return `${reference} ${manifestDigest ?? ''}`;
}

/** Whether layers are the first ones of others. */
function isStart(layers: readonly ChainLayer[], of: readonly ChainLayer[]): boolean {
  return layers.every(({ digest, sizeBytes }, i) => {
    const other = of[i];
    return other?.digest === digest && other.sizeBytes === sizeBytes;
  });
}

/** A chain, with all block layers of its manifest above; undefined when it has all of them. */
function wholeOf(manifest: Uint8Array, chain: Chain): Chain | undefined {
  const blocks = blockLayersIn(manifest);
  const isMore = blocks.length > chain.layers.length && isStart(chain.layers, blocks);
  return isMore ? { ...chain, layers: blocks } : undefined;
}

/** The layers of a manifest that are read on demand, bottom first, up to the first ordinary one. */
function blockLayersIn(manifest: Uint8Array): readonly ChainLayer[] {
  const { layers } = parseManifest(manifest);
  const blocks = layers.filter(({ annotations }) => annotations[ACCELERATION_ANNOTATION] !== 'yes');
  const isOrdinary = ({ annotations }: Descriptor): boolean =>
    annotations[`${OVERLAYBD_ANNOTATION}blob-digest`] === undefined;
  const end = blocks.findIndex(isOrdinary);
  const found = end < 0 ? blocks : blocks.slice(0, end);
  return found.map(({ digest, size }) => ({ digest, sizeBytes: size }));
}

/** In the record of a mount: the layer is this file. */
const FILE_ANNOTATION = 'xylem/file';

/** In the record of a mount: the digest of the image's own manifest. */
const MANIFEST_ANNOTATION = 'xylem/manifest';

/** The chain of a mounted image, as far as its blobs are concerned. */
export function chainOf({ reference, digest, manifest }: DeviceImage): Chain {
  const layers = manifest.layers.map(({ digest: layer, size, annotations }) => {
    const file = annotations[FILE_ANNOTATION];
    return { digest: layer, sizeBytes: size, ...(file !== undefined && { file }) };
  });
  const manifestDigest = parseDigest(manifest.annotations[MANIFEST_ANNOTATION] ?? '');
  return {
    ...{ chainId: digest, reference, layers },
    ...(manifestDigest !== undefined && { manifestDigest }),
  };
}
