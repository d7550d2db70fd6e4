import type { Disk, DiskEntry, DiskFile, DiskLock, OpenMode } from '../../src/runtime/disk.ts';
import type { Random } from '../../src/runtime/random.ts';
import { simError, type SimDisk } from '../kit/sim-disk.ts';
import type { FaultReport } from './fault-report.ts';

/** Share of the operations of a kind that fail, 0 to 1 each. */
export interface DiskFaultRates {
  /** EIO from a read, from a write (after a part of it), and from a sync. */
  readonly readError: number;
  readonly tornWrite: number;
  readonly syncError: number;
  /** ENOSPC from a write. */
  readonly noSpace: number;
  /** EMFILE from an open. */
  readonly noDescriptor: number;
  /** A bit read has changed on the disk, permanently. */
  readonly bitRot: number;
}

export const DISK_FAULTS: DiskFaultRates = {
  readError: 0.01,
  tornWrite: 0.01,
  syncError: 0.02,
  noSpace: 0.02,
  noDescriptor: 0.005,
  bitRot: 0.02,
};

/**
 * A disk that fails by seed, around a simulated disk.
 *
 * Fault model: each operation fails by the toss of a coin, on its own, and reports it; rot reports
 * nothing. Only files in `blobs/` rot: a store with an unreadable version refuses to start, on
 * purpose. The disk below (`losePower()`) is responsible for short reads, and for the remains of
 * unsynced writes after a loss of power. Without `rates` nothing fails.
 */
export class FaultyDisk implements Disk {
  readonly #inner: SimDisk;
  readonly #random: Random;
  readonly #report: FaultReport;
  rates: DiskFaultRates | undefined;

  constructor(components: { disk: SimDisk; random: Random; report: FaultReport }) {
    this.#inner = components.disk;
    this.#random = components.random;
    this.#report = components.report;
  }

  async open(path: string, mode: OpenMode): Promise<DiskFile> {
    if (this.#fails('noDescriptor', 'disk: EMFILE')) throw simError('too-many-files', path);
    const file = await this.#inner.open(path, mode);
    return {
      read: (target, offset) => this.#read(file, path, { target, offset }),
      write: (source, offset) => this.#write(file, path, { source, offset }),
      truncate: (sizeBytes) => file.truncate(sizeBytes),
      sync: async () => {
        if (this.#fails('syncError', 'disk: EIO at a sync')) throw simError('io', path);
        await file.sync();
      },
      close: () => file.close(),
    };
  }

  makeFolder(path: string): Promise<void> {
    return this.#inner.makeFolder(path);
  }

  list(path: string): Promise<readonly DiskEntry[]> {
    return this.#inner.list(path);
  }

  rename(from: string, to: string): Promise<void> {
    return this.#inner.rename(from, to);
  }

  remove(path: string): Promise<void> {
    return this.#inner.remove(path);
  }

  async syncFolder(path: string): Promise<void> {
    if (this.#fails('syncError', 'disk: EIO at a sync')) throw simError('io', path);
    await this.#inner.syncFolder(path);
  }

  freeBytes(): Promise<number> {
    return this.#inner.freeBytes();
  }

  lock(path: string): Promise<DiskLock> {
    return this.#inner.lock(path);
  }

  async #read(
    file: DiskFile,
    path: string,
    { target, offset }: { target: Uint8Array; offset: number },
  ): Promise<number> {
    if (this.#fails('readError', 'disk: EIO at a read')) throw simError('io', path);
    if (path.startsWith('blobs/') && this.#fails('bitRot', 'disk: bit rot')) {
      this.#inner.rot(path, offset + this.#random.below(target.length));
    }
    return file.read(target, offset);
  }

  async #write(
    file: DiskFile,
    path: string,
    { source, offset }: { source: Uint8Array; offset: number },
  ): Promise<void> {
    if (this.#fails('noSpace', 'disk: ENOSPC')) throw simError('no-space', path);
    if (this.#fails('tornWrite', 'disk: EIO during a write')) {
      await file.write(source.subarray(0, this.#random.below(source.length)), offset);
      throw simError('io', path);
    }
    await file.write(source, offset);
  }

  #fails(kind: keyof DiskFaultRates, name: string): boolean {
    if (this.rates === undefined || this.#random.float() >= this.rates[kind]) return false;
    this.#report.add('injected', name);
    return true;
  }
}
