import type { WritableDevices } from '../contracts.ts';
import type { SnapshotKind } from './snapshot.ts';

/** A mount that containerd makes, as it names them. */
export interface SnapshotMount {
  readonly type: 'bind' | 'overlay' | 'ext4';
  readonly source: string;
  readonly options: readonly string[];
}

/** Folders of a snapshot of its own: its files, and what overlayfs needs beside them. */
export interface OwnFolders {
  readonly files: string;
  readonly work: string;
}

/**
 * How containerd mounts an open snapshot: its own folder alone, or an overlay of it and what lies
 * below, the upper ones first. `deviceDir` is below all `folders`.
 *
 * A device is never bound by itself: its mount ignores set-user-ID bits and device files, and those
 * of a container may count.
 */
export function mountsOf(
  kind: Exclude<SnapshotKind, 'committed'>,
  own: OwnFolders,
  lower: { readonly folders: readonly string[]; readonly deviceDir: string | undefined },
  overlayOptions: readonly string[],
): readonly SnapshotMount[] {
  const { folders, deviceDir } = lower;
  const isView = kind === 'view';
  const [first, ...others] = folders;
  if (first === undefined && deviceDir === undefined) {
    return [bind(own.files, isView ? 'ro' : 'rw')];
  }
  if (isView && first !== undefined && others.length === 0 && deviceDir === undefined) {
    return [bind(first, 'ro')];
  }
  const below = [...folders, ...(deviceDir === undefined ? [] : [deviceDir])];
  // Without an upper folder, overlayfs wants two lower ones: the view's own is empty.
  const lowers = isView && below.length === 1 ? [own.files, ...below] : below;
  const upper = isView ? [] : [`workdir=${own.work}`, `upperdir=${own.files}`];
  const options = [...overlayOptions, ...upper, `lowerdir=${lowers.join(':')}`];
  return [{ type: 'overlay', source: 'overlay', options }];
}

/** How containerd mounts a device of the snapshot's own, which is mounted at `dir`, if anywhere. */
export function writableMounts({
  dir,
  device,
  options,
}: Awaited<ReturnType<WritableDevices['hold']>>): readonly SnapshotMount[] {
  return dir === undefined ? [{ type: 'ext4', source: device, options }] : [bind(dir, 'rw')];
}

function bind(source: string, mode: 'ro' | 'rw'): SnapshotMount {
  return { type: 'bind', source, options: [mode, 'rbind'] };
}
