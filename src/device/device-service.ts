import { closeSync } from 'node:fs';
import { resolve } from 'node:path';
import { digestHex, type Digest } from '../image/digest.ts';
import { blockLayers, type DeviceImage } from '../image/manifest.ts';
import type { Clock } from '../runtime/clock.ts';
import { within } from '../runtime/deadline.ts';
import type { Codec } from '../runtime/codec.ts';
import type { Logger } from '../runtime/logger.ts';
import type { Metrics } from '../runtime/metrics.ts';
import type { DiskLock } from '../runtime/disk.ts';
import { lockFolder } from '../runtime/node/disk-lock.ts';
import { NodeHash } from '../runtime/node/hash.ts';
import type { BlobReader } from '../transfer/contracts/blob-reader.ts';
import { errorText } from '../util/errors.ts';
import { orAbort } from '../util/or-abort.ts';
import { Backends, type BackendKind, type ServedDisk } from './backends.ts';
import { alreadyMounted, busy, notRunning, tooManyMounts } from './errors.ts';
import { HOLD_WAIT_MS } from './fuse/fuse-server.ts';
import { ImageDisk, type ReadObserver } from './image-disk.ts';
import type { DescriptorKeeper } from './keeper/kept-descriptors.ts';
import { deviceMetrics, type DeviceMetrics } from './metrics.ts';
import type { MountReads } from './mount-reads.ts';
import {
  requireFilesystem,
  requireMounted,
  requireUnmounted,
  takeTarget,
} from './mount/mount-checks.ts';
import { runInHelper } from './mount/mount-process.ts';
import { MountRecords, type MountRecord } from './mount/mount-records.ts';
import type { MountResult } from './mount/mount-steps.ts';
import { deviceAt, type MountPlace, type UnmountResult } from './mount/unmount-steps.ts';
import { ReopenedDisk, type OpenDisk } from './reopened-disk.ts';
import { folderAbove, type TargetFolder } from './mount/target-folder.ts';
import { withHeldFirst } from './store-reader/held-first.ts';
import { heldImage, type HeldStore } from './store-reader/held-image.ts';
import { StoreShares } from './store-reader/store-shares.ts';

/**
 * Most images mounted at once on a host: each takes a thread of some MB. Hosts run at most some
 * hundred containers.
 */
const MOUNTS_MAX = 256;

/**
 * Longest opening of the layers, and longest mount, in milliseconds: each read has the reader's own
 * deadline, but a slow source may answer hundreds of them, while the image takes a place.
 */
const MOUNT_TIMEOUT_MS = 120_000;

/** Longest unmount, in milliseconds: it reads nothing, but the machine may swap. */
const UNMOUNT_TIMEOUT_MS = 10_000;

/** Longest wait for a mount's thread to end after its filesystem is unmounted, in milliseconds. */
const END_TIMEOUT_MS = 500;

/**
 * Longest wait of a read for the image of a mount that is taken over, in milliseconds: the reader's
 * own deadline for a block.
 */
const REOPEN_TIMEOUT_MS = 60_000;

/**
 * Longest steps of a stop, in milliseconds: the end of mounts in the making; the unmount of all;
 * and that of those in use, by force. Together less than a process may take to stop.
 */
const STOP_MAKING_MS = 1_000;
const STOP_UNMOUNT_MS = 3_000;
const STOP_FORCE_MS = 3_000;

/** A mounted image. */
export interface MountInfo {
  /** The user's name for the image. */
  readonly reference: string;
  readonly digest: Digest;
  /** Folder of its files. */
  readonly dir: string;
  /**
   * The block device under it, such as `/dev/loop3`; for a filesystem that the kernel mounts from
   * a file, the file.
   */
  readonly device: string;
  /** Bytes of the block device. */
  readonly sizeBytes: number;
}

interface Mount {
  readonly disk: OpenDisk;
  readonly served: ServedDisk;
  readonly record: MountRecord;
  readonly info: MountInfo;
  unmounting: Promise<void> | undefined;
}

type HelperParameters = Parameters<typeof runInHelper>;

/**
 * Mounts images as block devices, whose bytes are fetched on demand: ext4 on a loop device on a
 * FUSE file, or EROFS on that file; or either on a device of the kernel's NBD driver.
 *
 * Life: `start()`, which takes over or clears the mounts of a killed process -> `mount()` and
 * `unmount()` -> `stop()`, which unmounts all within 9 s. A process that ends without `stop()`
 * leaves mounts. With NBD, or a keeper that has their descriptors, the next `start()` goes on
 * serving them: their readers wait meanwhile. Otherwise their reads fail, and the next `start()`
 * clears them.
 * Two services never share a state folder: `start()` rejects with DiskError `locked`. A service may
 * be stopped without a start.
 */
export class DeviceService {
  readonly #reader: BlobReader;
  readonly #codec: Codec;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #metrics: DeviceMetrics;
  readonly #records: MountRecords;
  readonly #stateDir: string;
  readonly #mountFolders: readonly string[];
  readonly #onRead: ReadObserver | undefined;
  readonly #backends: Backends;
  readonly #store: HeldStore | undefined;
  readonly #shares: StoreShares;
  /** By target; undefined while it is being made. */
  readonly #mounts = new Map<string, Mount | undefined>();
  readonly #making = new Set<Promise<unknown>>();
  /** Those whose thread runs, also before and after their mount is listed. */
  readonly #served = new Set<ServedDisk>();
  /** Images of mounts that were taken over. */
  readonly #reopening: Promise<void>[] = [];
  #stopping = new AbortController();
  #lock: DiskLock | undefined;

  constructor(
    components: {
      reader: BlobReader;
      codec: Codec;
      clock: Clock;
      logger: Logger;
      metrics: Metrics;
      keeper?: DescriptorKeeper;
    },
    init: {
      stateDir: string;
      mountFolders: readonly string[];
      /** Is told every read. Then none is answered past the reader. */
      onRead?: ReadObserver;
      /** What its files hold is read from there, past the reader and the event loop. */
      store?: HeldStore;
      /** `loop` if nothing else is said. */
      backend?: BackendKind;
    },
  ) {
    this.#reader = components.reader;
    this.#codec = components.codec;
    this.#clock = components.clock;
    this.#logger = components.logger;
    this.#metrics = deviceMetrics(components.metrics);
    this.#stateDir = resolve(init.stateDir);
    this.#mountFolders = init.mountFolders;
    this.#onRead = init.onRead;
    this.#store = init.onRead === undefined ? init.store : undefined;
    const { readBytes } = this.#metrics;
    this.#shares = new StoreShares({ clock: components.clock, readBytes });
    this.#records = new MountRecords({ stateDir: this.#stateDir, key: 'device.stateDir' });
    const { keeper } = components;
    this.#backends = new Backends({ ...this.#shared, keeper }, { chosen: init.backend ?? 'loop' });
  }

  /**
   * Locks the state folder, and takes over or clears the mounts of an earlier process. Rejects with
   * DiskError `locked`, or DeviceError `not-permitted` when the host lacks the chosen backend.
   */
  async start(): Promise<void> {
    this.#backends.chosen.requireHost();
    this.#stopping = new AbortController();
    this.#records.open();
    this.#lock = await lockFolder(this.#stateDir);
    const records = this.#records.list();
    this.#backends.discardOthers(records, this.#records.dir);
    const others = records.filter((record) => !this.#takeOver(record));
    if (others.length > 0) {
      const targets = others.map(({ target }) => target);
      this.#logger.warn({ targets }, 'clearing the mounts of an earlier process');
      await this.#forceAway(others);
    }
    this.#metrics.mounts.set({}, this.list().length);
  }

  /** Goes on serving a mount that has outlived its process; false when it has not. */
  #takeOver(record: MountRecord): boolean {
    const { mounted, fuseDir, target } = record;
    const left = this.#backends.left(record);
    const device = left && deviceAt({ fuseDir, target, nbd: left.nbd });
    if (left === undefined || mounted === undefined || device === undefined) return false;
    const { image, sizeBytes } = mounted;
    const { reference, digest } = image;
    const open = async (signal: AbortSignal): Promise<ImageDisk> => {
      const opened = await this.openDisk(image, signal);
      if (opened.sizeBytes === sizeBytes) this.#hold(served, opened);
      return opened;
    };
    const disk = new ReopenedDisk(
      { ...this.#shared, open },
      { reference, sizeBytes, openTimeoutMs: REOPEN_TIMEOUT_MS },
    );
    const holdWaitMs = this.#store === undefined ? 0 : HOLD_WAIT_MS;
    const served = left.adopt(disk, { holdWaitMs });
    this.#watch(served);
    const info = { reference, digest, dir: target, device, sizeBytes };
    this.#mounts.set(target, { disk, served, record, info, unmounting: undefined });
    this.#reopening.push(disk.opened.then(() => served.holds));
    this.#logger.info({ ...info }, 'going on with a mount of an earlier process');
    return true;
  }

  /**
   * Resolves when the images of the mounts that `start()` took over are open, or soon: the program
   * has better not do other work before.
   */
  async reopened(): Promise<void> {
    await this.#endsWithin(HOLD_WAIT_MS, Promise.all(this.#reopening.splice(0)));
  }

  /** Throws DeviceError `target-not-allowed` unless `dir` lies below a folder for mounts. */
  requireAllowed(dir: string): void {
    folderAbove(dir, this.#mountFolders);
  }

  /**
   * Mounts an image at `dir`, below a folder for mounts: an empty folder, or one that is made and
   * goes with the mount. Rejects with DeviceError, or with the reader's error or ImageError when
   * the layers cannot be opened; nothing is left then.
   */
  async mount(image: DeviceImage, dir: string): Promise<MountInfo> {
    const target = resolve(dir);
    this.requireAllowed(dir);
    if (this.#lock === undefined || this.#stopping.signal.aborted) throw notRunning();
    if (this.#mounts.has(target)) throw alreadyMounted(dir);
    if (this.#mounts.size >= MOUNTS_MAX) throw tooManyMounts(image.reference, MOUNTS_MAX);
    this.#mounts.set(target, undefined);
    const making = this.#make(image, target);
    this.#making.add(making);
    try {
      const mount = await making;
      this.#mounts.set(target, mount);
      this.#logger.info({ ...mount.info }, 'image mounted');
      return mount.info;
    } catch (error) {
      this.#mounts.delete(target);
      throw error;
    } finally {
      this.#making.delete(making);
      this.#metrics.mounts.set({}, this.list().length);
    }
  }

  /**
   * Unmounts the image at `dir`; does nothing when this service has none there. Rejects with
   * DeviceError `busy` while the mount is in use; the mount then stays as it was.
   */
  async unmount(dir: string): Promise<void> {
    const target = resolve(dir);
    if (!this.#mounts.has(target)) return;
    const mount = this.#mounts.get(target);
    if (mount === undefined) throw busy(dir, 'its mount has not finished');
    mount.unmounting ??= this.#unmake(mount).finally(() => {
      mount.unmounting = undefined;
    });
    await mount.unmounting;
  }

  /** The mounted images, in the order of the `mount()` calls. */
  list(): readonly MountInfo[] {
    return [...this.#mounts.values()].flatMap((mount) => (mount === undefined ? [] : [mount.info]));
  }

  /** What has been read of the image at `dir`; undefined when this service has none there. */
  reads(dir: string): MountReads | undefined {
    return this.#mounts.get(resolve(dir))?.served.reads();
  }

  /** What is mounted where. */
  mounted(): readonly { readonly dir: string; readonly image: DeviceImage }[] {
    return [...this.#mounts].flatMap(([dir, mount]) => {
      const image = mount?.record.mounted?.image;
      return image === undefined ? [] : [{ dir, image }];
    });
  }

  /**
   * Unmounts all. Detaches busy mounts with a warning that says who uses them: processes that still
   * use one get EIO. Never rejects.
   */
  async stop(): Promise<void> {
    this.#stopping.abort(notRunning());
    const mounts = (): Mount[] => [...this.#mounts.values()].filter((mount) => mount !== undefined);
    const unmounting = mounts().flatMap((mount) => mount.unmounting ?? []);
    const inFlight = [...this.#making, ...unmounting];
    await this.#endsWithin(STOP_MAKING_MS, Promise.allSettled(inFlight));
    await this.#unmakeAll(mounts(), false);
    for (const served of this.#served) served.fail();
    await this.#unmakeAll(mounts(), true);
    await this.#lock?.release();
    this.#lock = undefined;
  }

  /** Never rejects. */
  async #unmakeAll(mounts: readonly Mount[], force: boolean): Promise<void> {
    if (mounts.length === 0) return;
    const places = mounts.map(placeOf);
    const timeoutMs = force ? STOP_FORCE_MS : STOP_UNMOUNT_MS;
    const request = { do: 'unmount-all', mounts: places, force } as const;
    try {
      const ended = await this.#help(request, { timeoutMs });
      const results = ended.kind === 'ended' ? ended.results : [];
      await Promise.all(
        mounts.map(async (mount, i) => {
          const result = results[i];
          if (result?.kind === 'unmounted') return this.#forget(mount);
          this.#noteLeft(mount, result, force);
        }),
      );
    } catch (error) {
      const fields = { mounts: mounts.length, force, error: errorText(error) };
      this.#logger.warn(fields, 'cannot unmount all images');
    }
  }

  #noteLeft({ info }: Mount, result: UnmountResult | undefined, force: boolean): void {
    const fields = { dir: info.dir, image: info.reference, ...result };
    if (force) this.#logger.error(fields, 'cannot detach a mount; the next start tries again');
    else this.#logger.warn(fields, 'an image is in use still: detaching it by force');
  }

  /** The disk of an image, without a mount. The caller closes it. Rejects as `mount()` does. */
  openDisk({ manifest }: DeviceImage, signal: AbortSignal): Promise<ImageDisk> {
    const [reader, codec] = [this.#reader, this.#codec];
    const components = { reader, codec, onRead: this.#onRead };
    if (this.#store === undefined) return ImageDisk.open(components, manifest, signal);
    return withHeldFirst(
      { others: reader, codec, clock: this.#clock, hash: new NodeHash() },
      { store: this.#store, blobs: blockLayers(manifest) },
      (opener) => ImageDisk.open({ ...components, opener }, manifest, signal),
    );
  }

  /** Has the thread of the mount read by itself what the store holds. */
  #hold(served: ServedDisk, disk: ImageDisk): void {
    if (this.#store === undefined) return;
    served.hold({ image: heldImage(this.#store, disk), shares: this.#shares });
  }

  async #make(image: DeviceImage, dir: string): Promise<Mount> {
    requireFilesystem(image);
    const { signal } = this.#stopping;
    const open = (limit: AbortSignal): Promise<ImageDisk> => this.openDisk(image, limit);
    const disk = await within(this.#clock, MOUNT_TIMEOUT_MS, open, { signal });
    const onStop = (): void => disk.close(); // Fails the reads of the mount, and so the mount.
    signal.addEventListener('abort', onStop);
    try {
      const target = takeTarget(dir, this.#mountFolders);
      try {
        return await this.#makeAt(target, { image, disk, dir });
      } finally {
        closeSync(target.fd);
      }
    } catch (error) {
      disk.close();
      throw error;
    } finally {
      signal.removeEventListener('abort', onStop);
    }
  }

  async #makeAt(
    { fd, path, isNew }: TargetFolder,
    init: { readonly image: DeviceImage; readonly disk: ImageDisk; readonly dir: string },
  ): Promise<Mount> {
    const { image, disk, dir } = init;
    const { reference, digest } = image;
    const name = digestHex(digest).slice(0, 12);
    const mounted = { image, sizeBytes: disk.sizeBytes };
    const record = this.#records.add(name, { target: path, ownsTarget: isNew, mounted });
    const { served, device } = await this.#mountDisk(disk, record, fd);
    const info = { reference, digest, dir, device, sizeBytes: disk.sizeBytes };
    return { disk, served, record, info, unmounting: undefined };
  }

  async #mountDisk(
    disk: ImageDisk,
    record: MountRecord,
    targetFd: number,
  ): Promise<{ served: ServedDisk; device: string }> {
    const { fuseDir, target } = record;
    let served: ServedDisk | undefined;
    try {
      served = this.#backends.chosen.serve(disk, record);
      this.#watch(served);
      this.#hold(served, disk);
      await served.keep();
      const limit = { timeoutMs: MOUNT_TIMEOUT_MS, targetFd };
      const request = { do: 'mount', fuseDir, nbd: served.nbd, target } as const;
      const result = await this.#help(request, limit);
      return { served, device: requireMounted(result, target, served.failure) };
    } catch (error) {
      served?.fail();
      await this.#forceAway([record], served?.nbd);
      throw error;
    }
  }

  #watch(served: ServedDisk): void {
    this.#served.add(served);
    void served.ended.then(() => this.#served.delete(served));
  }

  async #unmake(mount: Mount): Promise<void> {
    const { info } = mount;
    const request = { ...placeOf(mount), force: false };
    const timeoutMs = UNMOUNT_TIMEOUT_MS;
    const result = await this.#help({ do: 'unmount', ...request }, { timeoutMs });
    if (result.kind === 'busy') this.#metrics.unmountsRefused.inc({});
    requireUnmounted(result, info.dir);
    await this.#forget(mount);
  }

  /** Releases what an image had that is unmounted. */
  async #forget({ served, disk, record, info }: Mount): Promise<void> {
    const hasEnded = (): Promise<boolean> => this.#endsWithin(END_TIMEOUT_MS, served.ended);
    served.release();
    if (!(await hasEnded())) {
      const isFailed = served.fail() && (await hasEnded());
      const { fuseDir: path } = record;
      if (!isFailed) this.#logger.warn({ path }, 'the thread of a mount has not ended');
    }
    disk.close();
    this.#records.remove(record);
    this.#mounts.delete(info.dir);
    this.#metrics.mounts.set({}, this.list().length);
    this.#logger.info({ ...info }, 'image unmounted');
  }

  /** Waits for work that never rejects; false when it does not end in time. */
  #endsWithin(timeoutMs: number, work: Promise<unknown>): Promise<boolean> {
    return within(this.#clock, timeoutMs, (signal) => orAbort(work, signal)).then(
      () => true,
      () => false,
    );
  }

  /**
   * Clears mounts without a server, or one that failed half-way. Never rejects: the next start
   * tries again to clear the rest.
   */
  async #forceAway(records: readonly MountRecord[], nbd?: string): Promise<void> {
    const mounts = records.map((record) => {
      const { fuseDir, target } = record;
      return { fuseDir, target, nbd: nbd ?? this.#backends.left(record)?.nbd };
    });
    records.forEach((record) => this.#backends.discard(record));
    const report = (fields: Readonly<Record<string, unknown>>): void =>
      this.#logger.error(fields, 'cannot clear the rest of a mount; the next start tries again');
    try {
      const request = { do: 'unmount-all', mounts, force: true } as const;
      const ended = await this.#help(request, { timeoutMs: UNMOUNT_TIMEOUT_MS });
      const results = ended.kind === 'ended' ? ended.results : [];
      for (const [i, record] of records.entries()) {
        const result = results[i];
        if (result?.kind === 'unmounted') this.#records.remove(record);
        else report({ target: record.target, result });
      }
    } catch (error) {
      report({ targets: records.map(({ target }) => target), error: errorText(error) });
    }
  }

  get #shared(): { clock: Clock; logger: Logger; metrics: DeviceMetrics } {
    return { clock: this.#clock, logger: this.#logger, metrics: this.#metrics };
  }

  #help(request: HelperParameters[1], limit: HelperParameters[2]): Promise<MountResult> {
    return runInHelper({ clock: this.#clock }, request, limit);
  }
}

/** What is to be unmounted. */
function placeOf({ served, record, info }: Mount): MountPlace {
  const { fuseDir, target } = record;
  return { fuseDir, target, nbd: served.nbd, device: info.device };
}
