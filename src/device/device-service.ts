import { closeSync } from 'node:fs';
import { resolve } from 'node:path';
import { digestHex, type Digest } from '../image/digest.ts';
import type { ResolvedImage } from '../image/manifest.ts';
import type { Clock } from '../runtime/clock.ts';
import { within } from '../runtime/deadline.ts';
import type { Codec } from '../runtime/codec.ts';
import type { Logger } from '../runtime/logger.ts';
import type { Metrics } from '../runtime/metrics.ts';
import type { DiskLock } from '../runtime/disk.ts';
import { lockFolder } from '../runtime/node/disk-lock.ts';
import type { BlobReader } from '../transfer/contracts/blob-reader.ts';
import { errorText } from '../util/errors.ts';
import { orAbort } from '../util/or-abort.ts';
import { DeviceError } from './errors.ts';
import { FuseServer } from './fuse/fuse-server.ts';
import { ImageDisk, type ReadObserver } from './image-disk.ts';
import { MNT_FORCE, unmount } from './linux.ts';
import { deviceMetrics, type DeviceMetrics } from './metrics.ts';
import { requireExt4, requireMounted, takeTarget } from './mount/mount-checks.ts';
import { runInHelper } from './mount/mount-process.ts';
import { MountRecords, type MountRecord } from './mount/mount-records.ts';
import type { MountResult } from './mount/mount-steps.ts';
import { folderAbove, type TargetFolder } from './mount/target-folder.ts';

/**
 * Most images mounted at once on a host: each takes a thread of some MB. Hosts run at most some
 * hundred containers.
 */
const MOUNTS_MAX = 256;

/**
 * Longest mount, in milliseconds: some dozen reads one after another, each with the reader's own
 * deadline.
 */
const MOUNT_TIMEOUT_MS = 120_000;

/** Longest unmount, in milliseconds: it reads nothing, but the machine may swap. */
const UNMOUNT_TIMEOUT_MS = 10_000;

/** Longest wait for the FUSE thread to end after its filesystem is unmounted, in milliseconds. */
const END_TIMEOUT_MS = 5_000;

/** Most unmounts in flight during a stop: each is a process. */
const TEARDOWN_PARALLEL_MAX = 4;

/** Longest `stop()`, in milliseconds. */
const STOP_TIMEOUT_MS = 30_000;

/** A mounted image. */
export interface MountInfo {
  /** The user's name for the image. */
  readonly reference: string;
  readonly digest: Digest;
  /** Folder of its files. */
  readonly dir: string;
  /** The loop device under it, such as `/dev/loop3`. */
  readonly device: string;
  /** Bytes of the block device. */
  readonly sizeBytes: number;
}

interface Mount {
  readonly disk: ImageDisk;
  readonly server: FuseServer;
  readonly record: MountRecord;
  readonly info: MountInfo;
  unmounting: Promise<void> | undefined;
}

type HelperParameters = Parameters<typeof runInHelper>;

/**
 * Mounts images as block devices: ext4 on a loop device on a FUSE file, whose bytes are fetched on
 * demand.
 *
 * Life: `start()`, which clears the mounts of a killed process -> `mount()` and `unmount()` ->
 * `stop()`, which unmounts all within 30 s. A process that ends without `stop()` leaves mounts
 * whose reads fail; the next `start()` clears them. Two services never share a state folder:
 * `start()` rejects with DiskError `locked`. A service may be stopped without a start.
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
  /** By target; undefined while it is being made. */
  readonly #mounts = new Map<string, Mount | undefined>();
  readonly #making = new Set<Promise<unknown>>();
  #stopping = new AbortController();
  #lock: DiskLock | undefined;

  constructor(
    components: {
      reader: BlobReader;
      codec: Codec;
      clock: Clock;
      logger: Logger;
      metrics: Metrics;
    },
    init: { stateDir: string; mountFolders: readonly string[]; onRead?: ReadObserver },
  ) {
    this.#reader = components.reader;
    this.#codec = components.codec;
    this.#clock = components.clock;
    this.#logger = components.logger;
    this.#metrics = deviceMetrics(components.metrics);
    this.#stateDir = resolve(init.stateDir);
    this.#mountFolders = init.mountFolders;
    this.#onRead = init.onRead;
    this.#records = new MountRecords({ stateDir: this.#stateDir });
  }

  /**
   * Locks the state folder and clears the mounts of an earlier process. Rejects with DiskError
   * `locked`.
   */
  async start(): Promise<void> {
    this.#stopping = new AbortController();
    this.#records.open();
    this.#lock = await lockFolder(this.#stateDir);
    await inParallel(this.#records.list(), async (record) => {
      this.#logger.warn({ ...record }, 'clearing a mount of an earlier process');
      await this.#forceAway(record);
    });
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
  async mount(image: ResolvedImage, dir: string): Promise<MountInfo> {
    const target = resolve(dir);
    this.requireAllowed(dir);
    if (this.#lock === undefined || this.#stopping.signal.aborted) throw notRunning();
    if (this.#mounts.has(target)) {
      throw new DeviceError(
        `cannot mount at ${dir}: this process has already mounted an image there; unmount it first`,
        {
          code: 'already-mounted',
          dir,
        },
      );
    }
    if (this.#mounts.size >= MOUNTS_MAX) {
      throw new DeviceError(
        `cannot mount ${image.reference}: ${MOUNTS_MAX} images are mounted already (the limit); ` +
          'unmount some',
        { code: 'too-many-mounts', limit: MOUNTS_MAX },
      );
    }
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
    mount.unmounting ??= this.#unmake(mount, false).finally(() => {
      mount.unmounting = undefined;
    });
    await mount.unmounting;
  }

  /** The mounted images, in the order of the `mount()` calls. */
  list(): readonly MountInfo[] {
    return [...this.#mounts.values()].flatMap((mount) => (mount === undefined ? [] : [mount.info]));
  }

  /**
   * Unmounts all. Detaches busy mounts with a warning: processes that still use one get EIO. Never
   * rejects.
   */
  async stop(): Promise<void> {
    this.#stopping.abort(notRunning());
    await this.#endsWithin(STOP_TIMEOUT_MS, this.#unmakeAll());
    for (const mount of this.#mounts.values()) {
      // Fails all reads: this process could not exit otherwise.
      if (mount !== undefined) unmount(mount.record.fuseDir, MNT_FORCE);
    }
    await this.#lock?.release();
    this.#lock = undefined;
  }

  async #unmakeAll(): Promise<void> {
    await Promise.allSettled(this.#making);
    const mounts = [...this.#mounts.values()].filter((mount) => mount !== undefined);
    await inParallel(mounts, async (mount) => {
      try {
        await mount.unmounting?.catch(() => {});
        if (this.#mounts.has(mount.info.dir)) await this.#unmake(mount, false);
      } catch (error) {
        const { dir } = mount.info;
        this.#logger.warn(
          { dir, error: errorText(error) },
          'cannot unmount an image: detaching it by force',
        );
        await this.#unmake(mount, true).catch((failure: unknown) =>
          this.#logger.error({ dir, error: errorText(failure) }, 'cannot detach a mount'),
        );
      }
    });
  }

  async #make(image: ResolvedImage, dir: string): Promise<Mount> {
    requireExt4(image);
    const { signal } = this.#stopping;
    const components = { reader: this.#reader, codec: this.#codec, onRead: this.#onRead };
    const disk = await ImageDisk.open(components, image.manifest, signal);
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
    init: { readonly image: ResolvedImage; readonly disk: ImageDisk; readonly dir: string },
  ): Promise<Mount> {
    const { image, disk, dir } = init;
    const { reference, digest } = image;
    const name = digestHex(digest).slice(0, 12);
    const record = this.#records.add(name, { target: path, ownsTarget: isNew });
    const { server, device } = await this.#mountDisk(disk, record, fd);
    const info = { reference, digest, dir, device, sizeBytes: disk.sizeBytes };
    return { disk, server, record, info, unmounting: undefined };
  }

  async #mountDisk(
    disk: ImageDisk,
    record: MountRecord,
    targetFd: number,
  ): Promise<{ server: FuseServer; device: string }> {
    const { fuseDir, target } = record;
    const components = {
      disk,
      clock: this.#clock,
      logger: this.#logger,
      metrics: this.#metrics,
    };
    const server = new FuseServer(components, { path: fuseDir });
    try {
      server.mount();
      const limit = { timeoutMs: MOUNT_TIMEOUT_MS, targetFd };
      const result = await this.#help({ do: 'mount', fuseDir, target }, limit);
      return { server, device: requireMounted(result, target) };
    } catch (error) {
      await this.#forceAway(record);
      throw error;
    }
  }

  async #unmake(mount: Mount, force: boolean): Promise<void> {
    const { record, info, server, disk } = mount;
    const { fuseDir, target } = record;
    const request = { do: 'unmount', fuseDir, target, force } as const;
    const result = await this.#help(request, { timeoutMs: UNMOUNT_TIMEOUT_MS });
    if (result.kind === 'busy') {
      throw busy(info.dir, `${result.what} is in use, perhaps through a bind mount or an overlay`);
    }
    if (result.kind === 'failed') {
      throw new DeviceError(
        `cannot unmount ${info.dir}: ${result.step} failed with ${result.errno}`,
        { code: 'failed', step: result.step },
      );
    }
    if (!(await this.#endsWithin(END_TIMEOUT_MS, server.ended))) {
      this.#logger.warn({ path: server.path }, 'the FUSE thread has not ended');
    }
    disk.close();
    this.#records.remove(record);
    this.#mounts.delete(info.dir);
    this.#metrics.mounts.set({}, this.list().length);
    this.#logger.info({ ...info }, 'image unmounted');
  }

  /** Waits for work that never rejects; false when it does not end in time. */
  #endsWithin(timeoutMs: number, work: Promise<void>): Promise<boolean> {
    return within(this.#clock, timeoutMs, (signal) => orAbort(work, signal)).then(
      () => true,
      () => false,
    );
  }

  /**
   * Clears a mount without a server, or one that failed half-way. Never rejects: the next start
   * tries again to clear the rest.
   */
  async #forceAway(record: MountRecord): Promise<void> {
    const { fuseDir, target } = record;
    try {
      const request = { do: 'unmount', fuseDir, target, force: true } as const;
      const result = await this.#help(request, { timeoutMs: UNMOUNT_TIMEOUT_MS });
      if (result.kind === 'unmounted') return this.#records.remove(record);
      this.#logger.error(
        { ...record, result },
        'cannot clear the rest of a mount; the next start tries again',
      );
    } catch (error) {
      const text = errorText(error);
      this.#logger.error(
        { ...record, error: text },
        'cannot clear the rest of a mount; the next start tries again',
      );
    }
  }

  #help(request: HelperParameters[1], limit: HelperParameters[2]): Promise<MountResult> {
    return runInHelper({ clock: this.#clock }, request, limit);
  }
}

function notRunning(): DeviceError {
  return new DeviceError('the device service is not running', { code: 'not-running' });
}

function busy(dir: string, why: string): DeviceError {
  return new DeviceError(`cannot unmount ${dir}: ${why}; end its users and try again`, {
    code: 'busy',
    dir,
  });
}

/** Runs the work for each item, at most `TEARDOWN_PARALLEL_MAX` at a time; it must not reject. */
async function inParallel<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const rest = items.values();
  const runner = async (): Promise<void> => {
    for (const item of rest) await work(item);
  };
  await Promise.all(Array.from({ length: TEARDOWN_PARALLEL_MAX }, runner));
}
