import { CodedError } from '../util/errors.ts';

/**
 * Why the disk refused.
 *
 * - `not-found`, `exists`: no such file or folder; one is there already.
 * - `no-space`: full, or over a quota. `read-only`: the file system is. `denied`: this user may not.
 * - `too-many-files`: the process or the machine is out of descriptors.
 * - `locked`: another process uses the folder. `io`: anything else, a failing medium above all.
 */
export interface DiskErrorDetail {
  readonly code:
    | 'not-found'
    | 'exists'
    | 'no-space'
    | 'read-only'
    | 'denied'
    | 'too-many-files'
    | 'locked'
    | 'io';
  readonly path: string;
}

export class DiskError extends CodedError<DiskErrorDetail> {}

/** `read`: must exist. `write`: to read and write, made when absent. */
export type OpenMode = 'read' | 'write';

/** An open file. After `close()` nothing may be called. */
export interface DiskFile {
  /** Reads at the offset; may read less than asked, as pread(2) does, and 0 bytes only at the end of the file. */
  read(target: Uint8Array, offset: number): Promise<number>;
  /** Writes all of it, or rejects with any part of it written. Beyond the end the file grows, with a hole between. */
  write(source: Uint8Array, offset: number): Promise<void>;
  /** Cuts or extends (with a hole) the file to this size. */
  truncate(sizeBytes: number): Promise<void>;
  /** When it resolves, what was written before the call survives a loss of power: fdatasync(2). */
  sync(): Promise<void>;
  close(): Promise<void>;
}

export interface DiskEntry {
  readonly name: string;
  readonly kind: 'file' | 'folder' | 'other';
}

/** Sole use of a folder; ends with `release()` and with the process, however that ends. */
export interface DiskLock {
  release(): Promise<void>;
}

/**
 * What a crash-safe store needs of a disk, injected. Paths are relative to the disk's root, with `/` between the parts;
 * the empty path is the root itself. Everything rejects with DiskError.
 *
 * What is not synced may be lost, and may be kept in any order, when power is lost: data by `DiskFile.sync()`, names by `syncFolder()`.
 */
export interface Disk {
  open(path: string, mode: OpenMode): Promise<DiskFile>;
  /** Makes the folder and its parents, for this user alone; fine when it is there. */
  makeFolder(path: string): Promise<void>;
  /** Entries in an order of no meaning. */
  list(path: string): Promise<readonly DiskEntry[]>;
  /** Gives a file another name, at once and whole, replacing what had that name. */
  rename(from: string, to: string): Promise<void>;
  /** Removes a file, or a folder with all that is in it; fine when it is not there. */
  remove(path: string): Promise<void>;
  /** When it resolves, names made, changed and removed in the folder survive a loss of power. */
  syncFolder(path: string): Promise<void>;
  /** Bytes that this user may still write to the file system of the root. */
  freeBytes(): Promise<number>;
  /** Takes the folder for this holder alone; rejects with `locked` while another lives, in this process or any on the host. */
  lock(path: string): Promise<DiskLock>;
}
