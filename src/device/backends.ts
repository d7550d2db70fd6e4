import { closeSync } from 'node:fs';
import type { Clock } from '../runtime/clock.ts';
import type { Logger } from '../runtime/logger.ts';
import { errorText } from '../util/errors.ts';
import type { ReadOnlyDisk } from './disk.ts';
import { DeviceError } from './errors.ts';
import { FuseServer } from './fuse/fuse-server.ts';
import { NO_KEEPER, type DescriptorKeeper } from './keeper/kept-descriptors.ts';
import type { DeviceMetrics } from './metrics.ts';
import type { HeldDisk, MountReads } from './mount-reads.ts';
import { runInHelper } from './mount/mount-process.ts';
import { KEPT_PREFIX, keptName, type MountRecord } from './mount/mount-records.ts';
import { detachKernelNbd, kernelNbdFault } from './nbd/kernel.ts';
import { NbdMount } from './nbd/nbd-mount.ts';
import {
  kernelNbdPath,
  kernelNbds,
  nbdIdentifier,
  nbdsOfMounts,
  type KernelNbd,
} from './nbd-devices.ts';

/** How the kernel gets at the disks of images. */
export type BackendKind = 'loop' | 'nbd';

/** A disk that the kernel reads. */
export interface ServedDisk {
  /** The device of NBD; undefined for the file below the folder of the mount's record. */
  readonly nbd: string | undefined;
  reads(): MountReads;
  /** From here on reads are answered from the store's files. Call it once. */
  hold(held: HeldDisk): void;
  /** Resolves when its thread reads the store by itself. */
  readonly holds: Promise<void>;
  /** The error of the last read that failed. */
  readonly failure: unknown;
  /** Resolves when the disk outlives this process. Rejects with DeviceError. */
  keep(): Promise<void>;
  /** Resolves when everything is released. */
  readonly ended: Promise<void>;
  /** Fails all reads, now and later. False when the kernel does not let this process do so. */
  fail(): boolean;
  /** The filesystem is unmounted: releases everything. */
  release(): void;
}

/** What an earlier process has left of a mount. */
interface LeftDisk {
  readonly nbd: string | undefined;
  /** Goes on serving it; first reads may wait so long for `hold()`, in milliseconds. */
  adopt(disk: ReadOnlyDisk, init: { readonly holdWaitMs: number }): ServedDisk;
}

/** A way in which the kernel gets at disks. */
interface Backend {
  /** Throws DeviceError where the host does not have it. */
  requireHost(): void;
  /** Serves a disk for a new mount. Throws DeviceError. */
  serve(disk: ReadOnlyDisk, record: MountRecord): ServedDisk;
  /** Undefined when there is nothing to go on with. */
  left(record: MountRecord): LeftDisk | undefined;
  /** Ends what an earlier process has left of a mount, or half of a mount: its reads fail. */
  discard(record: MountRecord): void;
  /** Ends all that an earlier process has left, but for these mounts; `folder`: of the records. */
  discardOthers(records: readonly MountRecord[], folder: string): void;
}

interface BackendComponents {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: DeviceMetrics;
}

/**
 * The backends of a host: the chosen one for new mounts, and all of them for what an earlier
 * process has left, which may have had another configuration.
 */
export class Backends {
  readonly chosen: Pick<Backend, 'requireHost' | 'serve'>;
  readonly #all: readonly Backend[];

  constructor(
    components: BackendComponents & { readonly keeper?: DescriptorKeeper | undefined },
    init: { readonly chosen: BackendKind },
  ) {
    const loop = new FuseBackend(components);
    const nbd = new NbdBackend(components);
    this.#all = [loop, nbd];
    this.chosen = init.chosen === 'nbd' ? nbd : loop;
  }

  /** What an earlier process has left of a mount; undefined when there is nothing to go on with. */
  left(record: MountRecord): LeftDisk | undefined {
    return this.#all.map((backend) => backend.left(record)).find((left) => left);
  }

  /** Ends what an earlier process has left of a mount, or half of a mount: its reads fail. */
  discard(record: MountRecord): void {
    for (const backend of this.#all) backend.discard(record);
  }

  /** Ends all that an earlier process has left, but for these mounts; `folder`: of the records. */
  discardOthers(records: readonly MountRecord[], folder: string): void {
    for (const backend of this.#all) backend.discardOthers(records, folder);
  }
}

/** Longest wait for the kernel to send a server any request, in milliseconds. */
const PROBE_TIMEOUT_MS = 10_000;

/**
 * A file of a FUSE filesystem, below a loop device or mounted itself. A keeper that has the
 * connections lets the next process go on with them.
 */
class FuseBackend implements Backend {
  readonly #components: BackendComponents;
  readonly #keeper: DescriptorKeeper;
  /** What the keeper has of an earlier process, and nobody has taken yet. */
  readonly #left: Map<string, number>;

  constructor(components: BackendComponents & { readonly keeper?: DescriptorKeeper | undefined }) {
    this.#components = components;
    this.#keeper = components.keeper ?? NO_KEEPER;
    const { inherited } = this.#keeper;
    this.#left = new Map([...inherited].filter(([name]) => name.startsWith(KEPT_PREFIX)));
  }

  /** A mount says what is missing: where it is not needed, images can be read without it. */
  requireHost(): void {}

  serve(disk: ReadOnlyDisk, record: MountRecord): ServedDisk {
    const server = new FuseServer({ ...this.#components, disk }, { path: record.fuseDir });
    server.mount();
    return this.#served(server, record);
  }

  left(record: MountRecord): LeftDisk | undefined {
    const fd = this.#left.get(keptName(record));
    if (fd === undefined) return undefined;
    const adopt: LeftDisk['adopt'] = (disk, init) => {
      this.#left.delete(keptName(record));
      const server = new FuseServer({ ...this.#components, disk }, { path: record.fuseDir });
      if (!server.adopt(fd, init)) {
        const { target } = record;
        this.#components.logger.warn(
          { target },
          'reads in flight at the end of an earlier process fail',
        );
        void this.#probe(record);
      }
      return this.#served(server, record);
    };
    return { nbd: undefined, adopt };
  }

  discard(record: MountRecord): void {
    this.#letGo(keptName(record));
  }

  discardOthers(records: readonly MountRecord[]): void {
    const names = new Set(records.map(keptName));
    for (const name of this.#left.keys()) if (!names.has(name)) this.#letGo(name);
  }

  #served(server: FuseServer, record: MountRecord): ServedDisk {
    return {
      nbd: undefined,
      reads: () => server.reads(),
      hold: (held) => server.hold(held),
      holds: server.holds,
      get failure() {
        return server.failure;
      },
      keep: () => this.#keeper.keep(keptName(record), server.fd),
      ended: server.ended,
      fail: () => server.abort(),
      release: () => this.#keeper.forget(keptName(record)),
    };
  }

  #letGo(name: string): void {
    const fd = this.#left.get(name);
    this.#left.delete(name);
    if (fd !== undefined) closeSync(fd);
    this.#keeper.forget(name);
  }

  /** Makes the kernel send a request, which ends those that the earlier process took with it. */
  async #probe({ fuseDir, target }: MountRecord): Promise<void> {
    const { clock, logger } = this.#components;
    const request = { do: 'probe', fuseDir, target } as const;
    await runInHelper({ clock }, request, { timeoutMs: PROBE_TIMEOUT_MS }).catch((error: unknown) =>
      logger.warn({ error: errorText(error) }, 'cannot end the reads of an earlier process'),
    );
  }
}

/**
 * How long reads of a device wait for the next process after one was killed, in seconds: as long as
 * a keeper waits for one that is ready.
 */
const DEAD_CONNECTION_SECONDS = 60;

/**
 * A device of the kernel's NBD driver. The driver itself keeps it when the process is killed, and
 * asks the next one again what had no reply: no keeper is needed, and the socket of the dead
 * process is of no use, since half a command may have been read from it.
 */
class NbdBackend implements Backend {
  readonly #components: BackendComponents;

  constructor(components: BackendComponents) {
    this.#components = components;
  }

  requireHost(): void {
    const fault = kernelNbdFault();
    if (fault === undefined) return;
    throw new DeviceError(
      `device.backend is nbd, which this host cannot do: ${fault}; ` +
        'or choose `backend: loop`, which needs no driver but FUSE',
      { code: 'not-permitted', step: 'finding the NBD driver' },
    );
  }

  serve(disk: ReadOnlyDisk, record: MountRecord): ServedDisk {
    return served(
      NbdMount.attach(
        { ...this.#components, disk },
        {
          identifier: nbdIdentifier(record.fuseDir),
          deadConnectionSeconds: DEAD_CONNECTION_SECONDS,
        },
      ),
    );
  }

  left(record: MountRecord): LeftDisk | undefined {
    const device = this.#deviceOf(record);
    if (device === undefined) return undefined;
    const adopt = (disk: ReadOnlyDisk): ServedDisk =>
      served(NbdMount.adopt({ ...this.#components, disk }, device));
    return { nbd: kernelNbdPath(device), adopt };
  }

  discard(record: MountRecord): void {
    const device = this.#deviceOf(record);
    if (device !== undefined) this.#detach(device);
  }

  discardOthers(records: readonly MountRecord[], folder: string): void {
    const known = new Set(records.map(({ fuseDir }) => nbdIdentifier(fuseDir)));
    for (const device of nbdsOfMounts(folder)) {
      if (!known.has(device.identifier)) this.#detach(device);
    }
  }

  #deviceOf({ fuseDir }: MountRecord): KernelNbd | undefined {
    return kernelNbds().find(({ identifier }) => identifier === nbdIdentifier(fuseDir));
  }

  #detach(device: KernelNbd): void {
    try {
      detachKernelNbd(device);
    } catch (error) {
      const fields = { path: kernelNbdPath(device), error: errorText(error) };
      this.#components.logger.error(fields, 'cannot detach a device of an earlier process');
    }
  }
}

function served(mount: NbdMount): ServedDisk {
  return {
    nbd: mount.path,
    reads: () => mount.reads(),
    hold: (held) => mount.hold(held),
    holds: mount.holds,
    get failure() {
      return mount.failure;
    },
    keep: () => Promise.resolve(),
    ended: mount.ended,
    fail: () => {
      mount.end();
      return true;
    },
    release: () => mount.end(),
  };
}
