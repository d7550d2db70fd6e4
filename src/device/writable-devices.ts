import { closeSync } from 'node:fs';
import { basename, join } from 'node:path';
import { makeFolders } from '../runtime/node/folders.ts';
import { digestHex } from '../image/digest.ts';
import type { DeviceImage } from '../image/manifest.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Codec, Hash } from '../runtime/codec.ts';
import { within } from '../runtime/deadline.ts';
import type { Logger } from '../runtime/logger.ts';
import type { Metrics } from '../runtime/metrics.ts';
import { defined } from '../util/assert.ts';
import { errorText } from '../util/errors.ts';
import { orAbort } from '../util/or-abort.ts';
import type { DeviceService } from './device-service.ts';
import { DeviceError } from './errors.ts';
import { WritableFuseServer } from './fuse/writable-server.ts';
import { chainOf, type Chain } from './image-chain.ts';
import type { HeldDevice, ImageDevices } from './image-devices.ts';
import { NO_KEEPER, type DescriptorKeeper } from './keeper/kept-descriptors.ts';
import { deviceMetrics, type DeviceMetrics } from './metrics.ts';
import { requireMounted, takeTarget } from './mount/mount-checks.ts';
import { runInHelper } from './mount/mount-process.ts';
import { MountRecords, type MountRecord } from './mount/mount-records.ts';
import { EXT4_WRITABLE_OPTIONS, type WritableMode } from './mount/mount-options.ts';
import { deviceAt, loopAt } from './mount/unmount-steps.ts';
import { ReopenedDisk, type OpenDisk } from './reopened-disk.ts';
import { UpperLayer, type CommittedLayer } from './upper-layer.ts';

/** Longest mount, in milliseconds: it reads the image, and writes a journal. */
const MOUNT_TIMEOUT_MS = 120_000;

/** Longest unmount, in milliseconds: the kernel writes what it has in memory. */
const UNMOUNT_TIMEOUT_MS = 120_000;

/** Longest unmount by force, and longest wait for the end of the FUSE thread, in milliseconds. */
const FORCE_TIMEOUT_MS = 10_000;

/** Longest wait of a read for the image of a device that is taken over, in milliseconds. */
const REOPEN_TIMEOUT_MS = 60_000;

/**
 * Most writable devices of a host. Each takes a thread of some MB, and memory for its index, 24 MiB
 * at most.
 */
const DEVICES_MAX = 128;

const KEPT_PREFIX = 'writable:';

/** Where the writes of a device go, and how it is used. */
export interface Upper {
  /** For the layer alone. */
  readonly folder: string;
  readonly mode: WritableMode;
}

/** Where a device is to be had. */
export interface WritableDevice {
  /** Where it is mounted; undefined for one that its user mounts. */
  readonly dir: string | undefined;
  /** The block device. */
  readonly device: string;
  /** How its user mounts it. */
  readonly options: readonly string[];
}

interface Device extends Upper {
  readonly holder: string;
  readonly image: DeviceImage;
  readonly record: MountRecord;
  readonly device: string;
  readonly server: WritableFuseServer;
  readonly layer: UpperLayer;
  readonly disk: OpenDisk;
  readonly close: () => void;
}

/**
 * Devices that are written, one for each holder: a writable layer in a folder of the holder, over
 * the layers of an image.
 *
 * Life: `start()`, after the image devices, takes over or clears the devices of an earlier process
 * -> `hold()`, `drop()`, `commit()` -> `stop()`, before the image devices. A device survives the
 * process that serves it when a keeper has its descriptor. What was flushed to it survives
 * everything else.
 */
export class WritableDevices {
  readonly #devices: Pick<DeviceService, 'openDisk'>;
  readonly #images: Pick<ImageDevices, 'openChain'>;
  readonly #parts: { clock: Clock; logger: Logger; metrics: DeviceMetrics };
  readonly #encoding: { codec: Codec; hash: Hash };
  readonly #keeper: DescriptorKeeper;
  readonly #records: MountRecords;
  readonly #dir: string;
  readonly #boot: string;
  readonly #limitBytes: number;
  readonly #byHolder = new Map<string, Device>();
  /** The last work on each holder's device. */
  readonly #turns = new Map<string, Promise<unknown>>();
  /** Folders of layers whose files are open. */
  readonly #open = new Set<string>();
  readonly #stopping = new AbortController();

  /**
   * `dir`: for records and mounts, closed to other users. `boot`: another after each reboot.
   * `limitBytes`: of one layer, on the disk.
   */
  constructor(
    components: {
      devices: Pick<DeviceService, 'openDisk'>;
      images: Pick<ImageDevices, 'openChain'>;
      clock: Clock;
      logger: Logger;
      metrics: Metrics;
      codec: Codec;
      hash: Hash;
      keeper?: DescriptorKeeper;
    },
    init: { dir: string; boot: string; limitBytes: number },
  ) {
    const { clock, logger, codec, hash } = components;
    this.#devices = components.devices;
    this.#images = components.images;
    this.#parts = { clock, logger, metrics: deviceMetrics(components.metrics) };
    this.#encoding = { codec, hash };
    this.#keeper = components.keeper ?? NO_KEEPER;
    this.#records = new MountRecords({ stateDir: init.dir, key: 'device.snapshotsDir' });
    this.#dir = init.dir;
    this.#boot = init.boot;
    this.#limitBytes = init.limitBytes;
  }

  async start(): Promise<void> {
    makeFolders(this.#dir, 0o700);
    this.#records.open();
    const records = this.#records.list();
    const names = new Set(records.map(keptName));
    for (const [name, fd] of this.#keeper.inherited) {
      if (name.startsWith(KEPT_PREFIX) && !names.has(name)) this.#letGo(name, fd);
    }
    await Promise.all(
      records.map(async (record) => {
        if (await this.#takeOver(record)) return;
        this.#parts.logger.warn({ target: record.target }, 'clearing a writable device');
        await this.#forceAway(record);
      }),
    );
  }

  /**
   * Mounts the holder's device over a chain, or gives the one that it has. Rejects with a
   * CodedError; then there is none.
   */
  hold(chain: Chain, holder: string, upper: Upper, signal: AbortSignal): Promise<WritableDevice> {
    const holding = this.#inTurn(holder, () => this.#hold(chain, holder, upper));
    return orAbort(holding, signal);
  }

  /** Unmounts the holder's device, by force if it is in use; does nothing when there is none. */
  drop(holder: string): Promise<void> {
    return this.#inTurn(holder, async () => {
      const device = this.#byHolder.get(holder);
      if (device !== undefined) await this.#end(device);
    });
  }

  /**
   * Unmounts the holder's device, and writes what its layer has over the chain as a layer of an
   * image: a blob in the file `name` of its folder. Rejects with DeviceError `busy` while the
   * device is in use.
   */
  commit(chain: Chain, holder: string, upper: Upper, name: string): Promise<CommittedLayer> {
    return this.#inTurn(holder, async () => {
      const device = this.#byHolder.get(holder);
      if (device !== undefined) await this.#unmake(device, false);
      // A mount reads what the journal has, and an unmount leaves nothing in it.
      if (device?.mode !== 'dir' || device.server.hasFailed) {
        await this.#hold(chain, holder, { ...upper, mode: 'dir' });
        await this.#unmake(defined(this.#byHolder.get(holder), 'it is held'), false);
      }
      const layer = await UpperLayer.open(upper.folder, { boot: this.#boot });
      try {
        return await layer.commit(this.#encoding, name);
      } finally {
        await layer.close();
      }
    });
  }

  /** Removes what is left of a committed layer. */
  async clear(folder: string): Promise<void> {
    await UpperLayer.remove(folder);
  }

  list(): readonly HeldDevice[] {
    return [...this.#byHolder.values()].map(
      ({ image, record, device, server, layer, holder, mode }) => ({
        ...{ image: image.reference, chainId: image.digest, dir: record.target, device },
        ...{ sizeBytes: layer.sizeBytes, holders: [holder], writable: mode },
        reads: server.reads(),
      }),
    );
  }

  /** Unmounts all: by force what is in use. Never rejects. */
  async stop(): Promise<void> {
    this.#stopping.abort(notRunning());
    await Promise.allSettled(this.#turns.values());
    await Promise.all([...this.#byHolder.values()].map((device) => this.#end(device)));
  }

  /** Runs work after all earlier work on the holder's device. */
  #inTurn<T>(holder: string, work: () => Promise<T>): Promise<T> {
    const before = this.#turns.get(holder) ?? Promise.resolve();
    const turn = before.then(work, work);
    this.#turns.set(holder, turn);
    const end = (): void => {
      if (this.#turns.get(holder) === turn) this.#turns.delete(holder);
    };
    turn.then(end, end);
    return turn;
  }

  async #hold(chain: Chain, holder: string, upper: Upper): Promise<WritableDevice> {
    const had = this.#byHolder.get(holder);
    if (had?.server.hasFailed === true) await this.#unmakeUnused(had);
    const device = this.#byHolder.get(holder) ?? (await this.#make(chain, holder, upper));
    return placeOf(device);
  }

  /** Its file system takes no more writes; a new mount does. */
  async #unmakeUnused(device: Device): Promise<void> {
    try {
      await this.#unmake(device, false);
    } catch (error) {
      if (!(error instanceof DeviceError) || error.code !== 'busy') throw error;
    }
  }

  async #make(chain: Chain, holder: string, upper: Upper): Promise<Device> {
    const { signal } = this.#stopping;
    signal.throwIfAborted();
    if (this.#open.size >= DEVICES_MAX) {
      const what = `${DEVICES_MAX} writable devices are in use already (the limit): end some`;
      throw new DeviceError(what, { code: 'too-many-mounts', limit: DEVICES_MAX });
    }
    const opened = await this.#images.openChain(chain, signal);
    try {
      const disk = await this.#devices.openDisk(opened.image, signal);
      try {
        return await this.#makeOver(disk, { ...upper, holder, opened });
      } catch (error) {
        disk.close();
        throw error;
      }
    } catch (error) {
      opened.close();
      throw error;
    }
  }

  async #makeOver(
    disk: Awaited<ReturnType<DeviceService['openDisk']>>,
    init: Upper & {
      readonly holder: string;
      readonly opened: Awaited<ReturnType<ImageDevices['openChain']>>;
    },
  ): Promise<Device> {
    const { folder, mode, holder, opened } = init;
    const { image } = opened;
    const isNew = !(await UpperLayer.isReady(folder));
    const { sizeBytes, uuid } = disk;
    if (isNew) await UpperLayer.make(folder, { sizeBytes, parentUuid: uuid || undefined });
    const layer = await this.#openLayer(folder, disk, Number.POSITIVE_INFINITY);
    let server: WritableFuseServer | undefined;
    try {
      const target = takeTarget(join(this.#dir, 'roots', holder), [this.#dir]);
      try {
        const name = digestHex(image.digest).slice(0, 12);
        const record = this.#records.add(name, {
          ...{ target: target.path, ownsTarget: true },
          mounted: { image, sizeBytes, upper: { holder, mode, folder } },
        });
        server = new WritableFuseServer({ ...this.#parts, disk: layer }, { path: record.fuseDir });
        const device = await this.#mount(server, { record, mode, targetFd: target.fd });
        await layer.ready(this.#limitBytes).catch(async (error: unknown) => {
          await this.#forceAway(record);
          throw error;
        });
        const made = {
          ...{ holder, folder, mode, image, record, device, server, layer, disk },
          close: () => opened.close(),
        };
        this.#byHolder.set(holder, made);
        this.#parts.logger.info({ holder, device, dir: record.target }, 'writable device made');
        return made;
      } finally {
        closeSync(target.fd);
      }
    } catch (error) {
      await this.#closeAfter(server, layer, folder);
      throw error;
    }
  }

  /** Mounts; gives the block device. Nothing is left when it rejects. */
  async #mount(
    server: WritableFuseServer,
    how: { readonly record: MountRecord; readonly mode: WritableMode; readonly targetFd: number },
  ): Promise<string> {
    const { record, mode: writable, targetFd } = how;
    const { fuseDir, target } = record;
    try {
      server.mount();
      await this.#keeper.keep(keptName(record), server.fd);
      const request = { do: 'mount', fuseDir, target, writable } as const;
      const limit = { timeoutMs: MOUNT_TIMEOUT_MS, targetFd };
      return requireMounted(await runInHelper(this.#parts, request, limit), target);
    } catch (error) {
      await this.#forceAway(record);
      throw error;
    }
  }

  /** Goes on serving a device whose connection the keeper has; false when it has to be cleared. */
  async #takeOver(record: MountRecord): Promise<boolean> {
    const name = keptName(record);
    const fd = this.#keeper.inherited.get(name);
    if (fd === undefined) return false;
    const { mounted, fuseDir, target } = record;
    const upper = mounted?.upper;
    const device = upper?.mode === 'dev' ? loopAt(fuseDir) : deviceAt({ fuseDir, target });
    const { signal } = this.#stopping;
    try {
      if (mounted === undefined || upper === undefined || device === undefined) {
        throw new Error('it was not mounted yet');
      }
      const { holder, folder, mode } = upper;
      if (!(await UpperLayer.isReady(folder))) throw new Error('it was not ready yet');
      const { image, sizeBytes } = mounted;
      const opening = this.#images.openChain(chainOf(image), signal, { isMounted: true });
      opening.catch(() => {}); // The devices are being stopped.
      const disk = new ReopenedDisk(
        { ...this.#parts, open: (ends) => this.#devices.openDisk(image, ends) },
        { reference: image.reference, sizeBytes, openTimeoutMs: REOPEN_TIMEOUT_MS },
      );
      const layer = await this.#openLayer(folder, disk, this.#limitBytes);
      const server = new WritableFuseServer({ ...this.#parts, disk: layer }, { path: fuseDir });
      const resends = server.adopt(fd);
      const close = (): void =>
        void opening.then(
          (opened) => opened.close(),
          () => {},
        );
      const parts = { holder, folder, mode, image, record, device, server, layer, disk, close };
      this.#byHolder.set(holder, parts);
      this.#parts.logger.info({ holder, device, resends }, 'going on with a writable device');
      if (!resends) void this.#probe(record);
      return true;
    } catch (error) {
      this.#parts.logger.warn({ target, error: errorText(error) }, 'cannot go on with a device');
      this.#letGo(name, fd);
      return false;
    }
  }

  /** Makes the kernel send a request, which ends those that the earlier process took with it. */
  async #probe(record: MountRecord): Promise<void> {
    const request = { do: 'probe', ...record } as const;
    await runInHelper(this.#parts, request, { timeoutMs: FORCE_TIMEOUT_MS }).catch(() => {});
  }

  async #openLayer(folder: string, lower: OpenDisk, limitBytes: number): Promise<UpperLayer> {
    if (this.#open.has(folder)) {
      const what = `the writable layer in ${folder} is in use still; try again`;
      throw new DeviceError(what, { code: 'busy', dir: folder });
    }
    this.#open.add(folder);
    try {
      return await UpperLayer.open(folder, { lower, boot: this.#boot }, limitBytes);
    } catch (error) {
      this.#open.delete(folder);
      throw error;
    }
  }

  /** Unmounts, by force where the device is in use. Never rejects. */
  async #end(device: Device): Promise<void> {
    const { holder } = device;
    try {
      await this.#unmake(device, false);
    } catch (error) {
      const text = errorText(error);
      this.#parts.logger.warn({ holder, error: text }, 'detaching a writable device by force');
      await this.#unmake(device, true).catch((failure: unknown) =>
        this.#parts.logger.error({ holder, error: errorText(failure) }, 'cannot detach a device'),
      );
    }
  }

  async #unmake(device: Device, force: boolean): Promise<void> {
    const { record, holder, mode: writable } = device;
    const { fuseDir, target } = record;
    const request = { do: 'unmount', fuseDir, target, force, writable } as const;
    const timeoutMs = force ? FORCE_TIMEOUT_MS : UNMOUNT_TIMEOUT_MS;
    const result = await runInHelper(this.#parts, request, { timeoutMs });
    if (result.kind === 'busy') {
      const what = `cannot unmount the writable device of ${holder}: ${result.what} is in use`;
      throw new DeviceError(`${what}; end its container first`, { code: 'busy', dir: target });
    }
    if (result.kind === 'failed') {
      const { step, errno } = result;
      const what = `cannot unmount the writable device of ${holder}: ${step} failed with ${errno}`;
      throw new DeviceError(what, { code: 'failed', step });
    }
    this.#byHolder.delete(holder);
    this.#keeper.forget(keptName(record));
    this.#records.remove(record);
    await this.#closeAfter(device.server, device.layer, device.folder);
    device.disk.close();
    device.close();
    this.#parts.logger.info({ holder, device: device.device }, 'writable device unmounted');
  }

  /** Closes a layer when its server has ended; waits for that a while. Never rejects. */
  async #closeAfter(
    server: WritableFuseServer | undefined,
    layer: UpperLayer,
    folder: string,
  ): Promise<void> {
    const ended = server === undefined || server.fd < 0 ? Promise.resolve() : server.ended;
    const closed = ended
      .then(() => layer.close())
      .then(() => this.#open.delete(folder))
      .catch((error: unknown) =>
        this.#parts.logger.error({ folder, error: errorText(error) }, 'cannot close a layer'),
      );
    const wait = within(this.#parts.clock, FORCE_TIMEOUT_MS, (signal) => orAbort(closed, signal));
    await wait.catch(() =>
      this.#parts.logger.warn({ folder }, 'the thread of a writable device has not ended'),
    );
  }

  #letGo(name: string, fd: number): void {
    closeSync(fd);
    this.#keeper.forget(name);
  }

  /** Clears a device without a server, or one that failed half-way. Never rejects. */
  async #forceAway(record: MountRecord): Promise<void> {
    const { fuseDir, target } = record;
    this.#keeper.forget(keptName(record));
    try {
      const request = { do: 'unmount', fuseDir, target, force: true, writable: 'dir' } as const;
      const result = await runInHelper(this.#parts, request, { timeoutMs: FORCE_TIMEOUT_MS });
      if (result.kind !== 'unmounted') throw new Error(JSON.stringify(result));
      this.#records.remove(record);
    } catch (error) {
      this.#parts.logger.error(
        { ...record, error: errorText(error) },
        'cannot clear the rest of a writable device; the next start tries again',
      );
    }
  }
}

function placeOf({ mode, record, device }: Device): WritableDevice {
  const dir = mode === 'dir' ? record.target : undefined;
  return { dir, device, options: ['rw', ...EXT4_WRITABLE_OPTIONS] };
}

function keptName({ fuseDir }: MountRecord): string {
  return `${KEPT_PREFIX}${basename(fuseDir)}`;
}

function notRunning(): DeviceError {
  return new DeviceError('the devices are being stopped', { code: 'not-running' });
}
