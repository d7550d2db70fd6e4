import { CodedError } from '../util/errors.ts';

/**
 * Why a disk operation failed.
 *
 * - `not-found`: no such file or folder. `exists`: there is one already.
 * - `no-space`: the disk is full, or a quota is used up. `read-only`: the file system is read-only.
 *   `denied`: this user lacks permission.
 * - `too-many-files`: the process or the machine has no descriptor left.
 * - `locked`: another process uses the folder. `io`: anything else, most often a failing medium.
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

/** A disk operation that failed, with its path. */
export class DiskError extends CodedError<DiskErrorDetail> {}

/** `read`: the file must exist. `write`: for reads and writes; creates the file when absent. */
export type OpenMode = 'read' | 'write';

/** An open file. Positions and sizes are in bytes. After `close()` nothing may be called. */
export interface DiskFile {
  /**
   * Reads at the offset and gives the count of bytes read: may be fewer than asked, as by pread(2),
   * but 0 only at the end of the file.
   */
  read(target: Uint8Array, offset: number): Promise<number>;
  /**
   * Writes all of `source`, or rejects with any part of it written. A write beyond the end grows
   * the file, with a hole between.
   */
  write(source: Uint8Array, offset: number): Promise<void>;
  /** Cuts the file to this size, or extends it with a hole. */
  truncate(sizeBytes: number): Promise<void>;
  /** Once it resolves, all writes before the call survive a loss of power: fdatasync(2). */
  sync(): Promise<void>;
  close(): Promise<void>;
}

/** An entry of a folder. */
export interface DiskEntry {
  readonly name: string;
  readonly kind: 'file' | 'folder' | 'other';
}

/** Sole use of a folder. Ends with `release()`, or with the process, however the process ends. */
export interface DiskLock {
  release(): Promise<void>;
}

/**
 * The disk of a crash-safe store, injected. Paths are relative to the disk's root, with `/` between
 * the parts; the empty path is the root itself. Every method rejects with DiskError.
 *
 * When power is lost, any changes not yet synced may be lost, in any order. `DiskFile.sync()` syncs
 * data, `syncFolder()` names.
 */
export interface Disk {
  open(path: string, mode: OpenMode): Promise<DiskFile>;
  /**
   * Creates the folder and its parents, for this user alone. Resolves also when the folder exists.
   */
  makeFolder(path: string): Promise<void>;
  /** The entries of a folder, in no particular order. */
  list(path: string): Promise<readonly DiskEntry[]>;
  /** Renames a file atomically and replaces any file of the new name. */
  rename(from: string, to: string): Promise<void>;
  /** Removes a file, or a folder with its content. Resolves also when the path does not exist. */
  remove(path: string): Promise<void>;
  /** Once it resolves, names added, changed and removed in the folder survive a loss of power. */
  syncFolder(path: string): Promise<void>;
  /** Bytes that this user may still write to the file system of the root. */
  freeBytes(): Promise<number>;
  /**
   * Takes the folder for this holder alone. Rejects with `locked` while another holder lives, in
   * this process or any other on the host.
   */
  lock(path: string): Promise<DiskLock>;
}
