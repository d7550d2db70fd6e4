import type { SnapshotMount } from './catalog/mounts.ts';
import type { Labels, SnapshotRecord, Usage } from './catalog/snapshot.ts';

/** A snapshot that is to be made. */
export interface NewSnapshot {
  readonly key: string;
  /** Empty: none. */
  readonly parent: string;
  readonly labels: Labels;
}

/**
 * Snapshots, as containerd asks for them. Everything rejects with SnapshotError, or with the error
 * of the devices.
 */
export interface Snapshots {
  /**
   * A snapshot that is written to. A layer of a block image that can be read on demand is committed
   * at once instead: rejects with `already-exists`, and containerd does not download it.
   */
  prepare(wanted: NewSnapshot, signal: AbortSignal): Promise<readonly SnapshotMount[]>;
  view(wanted: NewSnapshot, signal: AbortSignal): Promise<readonly SnapshotMount[]>;
  /** Of an open snapshot. Mounts its device if that is not mounted. */
  mounts(key: string, signal: AbortSignal): Promise<readonly SnapshotMount[]>;
  commit(to: { name: string; key: string; labels: Labels }): Promise<void>;
  /** Its files go in the background. */
  remove(key: string): Promise<void>;
  stat(key: string): SnapshotRecord;
  /** `paths`: a field mask. */
  update(to: { name: string; labels: Labels; paths: readonly string[] }): Promise<SnapshotRecord>;
  list(filters: readonly string[]): readonly SnapshotRecord[];
  usage(key: string): Promise<Usage>;
  /** Removes what no snapshot has any more, and waits for that. */
  cleanup(): Promise<void>;
}
