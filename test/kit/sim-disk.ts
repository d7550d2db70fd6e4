import type { Random } from '../../src/runtime/random.ts';
import {
  DiskError,
  type Disk,
  type DiskEntry,
  type DiskErrorDetail,
  type DiskFile,
  type DiskLock,
  type OpenMode,
} from '../../src/runtime/disk.ts';

/** An operation on a disk, as a fault sees it. */
export type DiskOperation =
  | 'open'
  | 'read'
  | 'write'
  | 'truncate'
  | 'sync'
  | 'list'
  | 'lock'
  | 'remove';

/** Called before each operation: throws to make it fail, waits to make it slow. */
export type Fault = (operation: DiskOperation, path: string) => void | Promise<void>;

/** Faults that this disk causes by itself, without a `Fault`. */
export type DiskMischief = 'short read' | 'torn write' | 'reordered write';

/** The unit that a disk writes as a whole; writes tear at its boundaries. */
const SECTOR_BYTES = 512;

interface SimFile {
  /** Bytes that survive a loss of power for certain. */
  durable: Uint8Array;
  /** Bytes that every reader sees. */
  current: Uint8Array;
  /** Changes since the last sync, in their order. */
  unsynced: Change[];
  /** Whether the name survives: the folders above were synced since the file was created. */
  named: boolean;
  /** The file whose name this one took, until the folder is synced. */
  replaced?: SimFile | undefined;
}

type Change =
  | { readonly kind: 'write'; readonly offset: number; readonly bytes: Uint8Array }
  | { readonly kind: 'truncate'; readonly sizeBytes: number };

/**
 * A disk in memory that loses power.
 *
 * Fault model: a read may be short. At a loss of power unsynced writes survive by whole sectors of
 * 512 bytes, each by the toss of a coin and so in any order; so does a change of size. A file whose
 * name was not synced may be gone as a whole, or be again the file that it replaced; a file whose
 * removal was not synced may be back.
 *
 * After `kill()` (the process died, the kernel lives) everything written is there. After
 * `failAfter(n)` the n-th operation from then on and all later operations never return, as for a
 * process that dies during one of them; if it is a write, a part of it is done. Not modelled: lost
 * syncs, hard links, times.
 */
export class SimDisk implements Disk {
  readonly #files: Map<string, SimFile>;
  readonly #folders: Set<string>;
  readonly #random: Random;
  readonly #onMischief: (kind: DiskMischief) => void;
  /** Removed files whose folder was not synced since. */
  readonly #removed = new Map<string, SimFile>();
  #fault: Fault = () => {};
  #operationsLeft = Number.POSITIVE_INFINITY;
  #locked = false;
  freeSpaceBytes = 2 ** 40;
  /** Operations started so far. */
  operationCount = 0;

  /**
   * `onMischief` receives each short read. At a loss of power it receives each write that tore, or
   * was lost while a later write survived.
   */
  constructor(init: {
    random: Random;
    files?: Map<string, SimFile>;
    folders?: Set<string>;
    onMischief?: (kind: DiskMischief) => void;
  }) {
    this.#random = init.random;
    this.#onMischief = init.onMischief ?? (() => {});
    this.#files = init.files ?? new Map();
    this.#folders = init.folders ?? new Set();
  }

  setFault(fault: Fault): void {
    this.#fault = fault;
  }

  failAfter(operationCount: number): void {
    this.#operationsLeft = operationCount;
  }

  /**
   * The disk as the next process finds it after this one was killed; this object answers nothing
   * more.
   */
  kill(): SimDisk {
    this.failAfter(0);
    return this.#next(this.#files);
  }

  /** The disk as found after a loss of power; this object answers nothing more. */
  losePower(): SimDisk {
    this.failAfter(0);
    const files = new Map<string, SimFile>();
    for (const [path, file] of this.#files) {
      const old = file.replaced;
      const isLost = !file.named && this.#random.below(2) === 0;
      if (isLost && old === undefined) continue;
      const current = this.#survivor(isLost && old !== undefined ? old : file);
      files.set(path, { durable: current, current, unsynced: [], named: true });
    }
    for (const [path, file] of this.#removed) {
      if (files.has(path) || !file.named || this.#random.below(2) === 0) continue;
      const current = this.#survivor(file);
      files.set(path, { durable: current, current, unsynced: [], named: true });
      this.#folders.add(folderOf(path));
    }
    return this.#next(files);
  }

  #next(files: Map<string, SimFile>): SimDisk {
    return new SimDisk({
      random: this.#random,
      files,
      folders: this.#folders,
      onMischief: this.#onMischief,
    });
  }

  /** Flips a bit of a stored byte. */
  rot(path: string, offset: number): void {
    const file = this.#files.get(path);
    if (file !== undefined) file.current[offset]! ^= 0x10;
  }

  paths(): string[] {
    return [...this.#files.keys()];
  }

  async open(path: string, mode: OpenMode): Promise<DiskFile> {
    await this.#step('open', path);
    let file = this.#files.get(path);
    if (file === undefined) {
      if (mode === 'read' || !this.#folders.has(folderOf(path))) throw simError('not-found', path);
      const empty = new Uint8Array(0);
      file = { durable: empty, current: empty, unsynced: [], named: false };
      this.#files.set(path, file);
    }
    return this.#handle(file, path);
  }

  async makeFolder(path: string): Promise<void> {
    const parts = path.split('/');
    for (let i = 0; i <= parts.length; i++) this.#folders.add(parts.slice(0, i).join('/'));
  }

  async list(path: string): Promise<readonly DiskEntry[]> {
    await this.#step('list', path);
    if (!this.#folders.has(path)) throw simError('not-found', path);
    const below = (other: string): string | undefined => {
      const prefix = path === '' ? '' : `${path}/`;
      const name = other.slice(prefix.length);
      return other.startsWith(prefix) && name !== '' && !name.includes('/') ? name : undefined;
    };
    const entries: DiskEntry[] = [];
    for (const [kind, names] of [
      ['file', this.#files.keys()],
      ['folder', this.#folders],
    ] as const) {
      for (const other of names) {
        const name = below(other);
        if (name !== undefined) entries.push({ name, kind });
      }
    }
    return entries;
  }

  async rename(from: string, to: string): Promise<void> {
    const file = this.#files.get(from);
    if (file === undefined) throw simError('not-found', from);
    const old = this.#files.get(to);
    if (old !== undefined && old !== file) file.replaced = old.named ? old : old.replaced;
    file.named = false;
    this.#files.delete(from);
    this.#files.set(to, file);
  }

  async remove(path: string): Promise<void> {
    await this.#step('remove', path);
    this.#folders.delete(path);
    for (const [other, file] of [...this.#files]) {
      if (other !== path && !other.startsWith(`${path}/`)) continue;
      this.#files.delete(other);
      this.#removed.set(other, file);
    }
  }

  async syncFolder(path: string): Promise<void> {
    await this.#step('sync', path);
    for (const [other, file] of this.#files) {
      if (folderOf(other) !== path) continue;
      file.named = true;
      file.replaced = undefined;
    }
    for (const other of [...this.#removed.keys()]) {
      if (folderOf(other) === path) this.#removed.delete(other);
    }
  }

  async freeBytes(): Promise<number> {
    return this.freeSpaceBytes;
  }

  async lock(path: string): Promise<DiskLock> {
    await this.#step('lock', path);
    if (this.#locked) throw simError('locked', path);
    this.#locked = true;
    return {
      release: async () => {
        this.#locked = false;
      },
    };
  }

  #handle(file: SimFile, path: string): DiskFile {
    return {
      read: async (target, offset) => {
        await this.#step('read', path);
        const most = Math.min(target.length, file.current.length - offset);
        if (most <= 0) return 0;
        const count = this.#random.below(4) === 0 ? 1 + this.#random.below(most) : most;
        if (count < most) this.#onMischief('short read');
        target.set(file.current.subarray(offset, offset + count));
        return count;
      },
      write: async (source, offset) => {
        if (this.#operationsLeft === 0) {
          const part = source.slice(0, this.#random.below(source.length + 1));
          this.#change(file, { kind: 'write', offset, bytes: part });
        }
        await this.#step('write', path);
        this.#change(file, { kind: 'write', offset, bytes: source.slice() });
      },
      truncate: async (sizeBytes) => {
        await this.#step('truncate', path);
        this.#change(file, { kind: 'truncate', sizeBytes });
      },
      sync: async () => {
        const covered = file.unsynced.length;
        await this.#step('sync', path);
        for (const change of file.unsynced.splice(0, covered)) {
          file.durable = applied(file.durable, change);
        }
      },
      close: async () => {},
    };
  }

  #change(file: SimFile, change: Change): void {
    file.current = applied(file.current, change);
    file.unsynced.push(change);
  }

  #survivor(file: SimFile): Uint8Array {
    const ends = file.unsynced.map((change) =>
      change.kind === 'truncate' ? change.sizeBytes : change.offset + change.bytes.length,
    );
    const bytes = new Uint8Array(Math.max(file.durable.length, file.current.length, ...ends));
    bytes.set(file.durable);
    let size = file.durable.length;
    let behind = 0;
    for (const change of file.unsynced) {
      if (change.kind === 'truncate') {
        if (this.#random.below(2) === 0) continue;
        bytes.fill(0, change.sizeBytes);
        size = change.sizeBytes;
        continue;
      }
      const end = change.offset + change.bytes.length;
      let [kept, lost] = [0, 0];
      for (let at = change.offset; at < end; ) {
        const next = Math.min((Math.floor(at / SECTOR_BYTES) + 1) * SECTOR_BYTES, end);
        if (this.#random.below(2) === 0) {
          bytes.set(change.bytes.subarray(at - change.offset, next - change.offset), at);
          size = Math.max(size, next);
          kept++;
        } else {
          lost++;
        }
        at = next;
      }
      if (kept > 0 && lost > 0) this.#onMischief('torn write');
      // Earlier unsynced writes that lost sectors reached the disk later or never.
      for (; kept > 0 && behind > 0; behind--) this.#onMischief('reordered write');
      if (lost > 0) behind++;
    }
    return bytes.slice(0, size);
  }

  async #step(operation: DiskOperation, path: string): Promise<void> {
    this.operationCount++;
    if (this.#operationsLeft-- <= 0) await new Promise(() => {});
    await this.#fault(operation, path);
  }
}

function folderOf(path: string): string {
  return path.slice(0, Math.max(0, path.lastIndexOf('/')));
}

export function simError(code: DiskErrorDetail['code'], path: string): DiskError {
  return new DiskError(`simulated disk: ${code} at ${path}`, { code, path });
}

/** The bytes after the change, in an array of their own when the size changed. */
function applied(bytes: Uint8Array, change: Change): Uint8Array {
  const size =
    change.kind === 'truncate'
      ? change.sizeBytes
      : Math.max(bytes.length, change.offset + change.bytes.length);
  const result = new Uint8Array(size);
  result.set(bytes.subarray(0, size));
  if (change.kind === 'write') result.set(change.bytes, change.offset);
  return result;
}
