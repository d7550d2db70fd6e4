import { closeSync, constants, openSync } from 'node:fs';
import { IMAGE_FILE } from '../fuse/fuse-filesystem.ts';
import { MNT_DETACH, MNT_FORCE, mount, unmount } from '../linux.ts';
import { readMountTable, type MountEntry } from '../mount-table.ts';
import { detachLoop, loopsByFile, loopsOver, type StepFailure } from './loop.ts';
import { holdersOf } from './mount-holders.ts';
import {
  EXT4_OPTIONS,
  EXT4_WRITABLE_OPTIONS,
  MOUNT_FLAGS,
  WRITABLE_FLAGS,
  type WritableMode,
} from './mount-options.ts';
import { openFolder, pathOf } from './target-folder.ts';

/** A mounted image. */
export interface MountPlace {
  /** Where its disk is served as a file. */
  readonly fuseDir: string;
  /** Its device, when it has one of NBD. */
  readonly nbd?: string | undefined;
  readonly target: string;
  /** What is mounted at `target`, as the mount table names it, if it is known. */
  readonly device?: string;
  /** For one that is written. */
  readonly writable?: WritableMode;
}

/** One image to be unmounted. */
export interface UnmountRequest extends MountPlace {
  /**
   * Fails all reads first, and detaches a busy mount: for one whose server is gone or must go.
   */
  readonly force: boolean;
}

/** Many images to be unmounted by one process. */
export interface UnmountAllRequest {
  readonly do: 'unmount-all';
  readonly mounts: readonly MountPlace[];
  readonly force: boolean;
}

/** The outcome of one. */
export type UnmountResult =
  | { readonly kind: 'unmounted' }
  /**
   * The target, or its device through another mount, is in use; it is mounted as before. `holders`:
   * who uses it, as far as that can be seen.
   */
  | { readonly kind: 'busy'; readonly what: string; readonly holders: readonly string[] }
  | { readonly kind: 'failed'; readonly step: string; readonly errno: string };

/** What is mounted from a disk: a user may have a FUSE mount that names any source. */
const FILESYSTEMS: ReadonlySet<string> = new Set(['ext4', 'erofs']);

/**
 * Waits for loop devices to clear themselves, and for the kernel to release FUSE files: 100 x 10
 * ms, for all mounts of a request together. By force, those in use are detached: they clear
 * themselves later.
 */
const RELEASE_ATTEMPTS_MAX = 100;
const FORCE_ATTEMPTS_MAX = 20;
const RELEASE_WAIT_MS = 10;

const NBD_PATH = /^\/dev\/nbd\d+$/;

/** A mount on its way out. */
interface Leaving {
  readonly place: MountPlace;
  readonly sources: readonly string[];
  /** What was unmounted so far. */
  readonly ended: MountEntry[];
  result: UnmountResult | undefined;
}

/**
 * Unmounts images: the filesystems, then their loop devices, then the FUSE files. What is in use is
 * left as it was, without `force`.
 */
export function unmountImages(request: {
  readonly mounts: readonly MountPlace[];
  readonly force: boolean;
}): readonly UnmountResult[] {
  const { mounts, force } = request;
  if (force) for (const { fuseDir } of mounts) unmount(fuseDir, MNT_FORCE);
  const host = { table: readMountTable(), loops: loopsByFile() };
  const all = mounts.map((place): Leaving => {
    return { place, sources: sourcesOf(place, host), ended: [], result: undefined };
  });
  const waits = { attempts: force ? FORCE_ATTEMPTS_MAX : RELEASE_ATTEMPTS_MAX };
  for (const leaving of all) leaving.result = unmountTarget(leaving, force);
  for (const leaving of all) leaving.result ??= releaseDevices(leaving, force, waits);
  return all.map(({ place, result }) => result ?? unmountFuse(place.fuseDir, waits));
}

/** The source of what is mounted at `target` from the FUSE file; undefined for nothing. */
export function deviceAt(place: MountPlace): string | undefined {
  const table = readMountTable();
  const sources = sourcesOf(place, { table, loops: loopsByFile() });
  return table.find(
    ({ source, mountPoint }) => mountPoint === place.target && sources.includes(source),
  )?.source;
}

/** The loop device over the FUSE file, which need not be mounted; undefined for none. */
export function loopAt(fuseDir: string): string | undefined {
  return loopsOver(imageOf(fuseDir))[0];
}

/** The result of a step that failed. */
export function failed({ step, failure }: StepFailure): Extract<UnmountResult, { kind: 'failed' }> {
  return { kind: 'failed', step, errno: failure.name };
}

/**
 * The sources of mounts of a disk: its NBD device, or its FUSE file and the loop devices over it.
 * The kernel forgets of which file a loop device is when somebody unmounts the file's filesystem,
 * and whose an NBD device was when it is detached; what is mounted at the target still tells.
 */
function sourcesOf(
  { fuseDir, nbd, target, device }: MountPlace,
  host: {
    readonly table: readonly MountEntry[];
    readonly loops: ReturnType<typeof loopsByFile>;
  },
): readonly string[] {
  const path = imageOf(fuseDir);
  const known = host.table
    .filter(({ mountPoint, type }) => mountPoint === target && FILESYSTEMS.has(type))
    .filter(({ source }) => source === device || NBD_PATH.test(source))
    .map(({ source }) => source);
  const own = nbd === undefined ? [...(host.loops.get(path) ?? []), path] : [nbd];
  return [...new Set([...own, ...known])];
}

/** Undefined on success. */
function unmountTarget(leaving: Leaving, force: boolean): UnmountResult | undefined {
  const { place, sources, ended } = leaving;
  const { target, writable } = place;
  const isMeant = force || writable !== undefined;
  const entries = readMountTable()
    .filter(({ source, type }) => sources.includes(source) && FILESYSTEMS.has(type))
    .filter(({ mountPoint }) => isMeant || mountPoint === target);
  // What is still written stays as it is.
  const other = entries.find(({ mountPoint }) => mountPoint !== target);
  if (!force && other !== undefined) return busy(leaving, other.mountPoint);
  for (const entry of entries) {
    const failure = unmount(entry.mountPoint, force ? MNT_DETACH : 0);
    if (failure?.name === 'EBUSY') return busy(leaving, entry.mountPoint);
    if (failure !== undefined) return failed({ step: `unmounting ${entry.mountPoint}`, failure });
    ended.push(entry);
  }
  return undefined;
}

/**
 * Undefined when the loop devices are gone, or nothing is mounted from the NBD device. Autoclear is
 * not instant in every kernel, and a bind mount or a namespace may hold the device for long.
 */
function releaseDevices(
  leaving: Leaving,
  force: boolean,
  waits: { attempts: number },
): UnmountResult | undefined {
  const { fuseDir, nbd, writable } = leaving.place;
  if (!force && writable !== undefined) {
    const stopped = detachUnused(leaving, waits);
    if (stopped !== undefined) return stopped;
  }
  for (;;) {
    const devices = nbd === undefined ? loopsOver(imageOf(fuseDir)) : claimed(nbd);
    if (devices.length === 0) return undefined;
    if (force) {
      if (nbd === undefined) for (const loop of devices) detachLoop(loop);
      return undefined;
    }
    if (waits.attempts-- <= 0) return restore(leaving) ?? busy(leaving, devices.join(', '));
    pause();
  }
}

/**
 * Detaches the loop device that nobody has mounted; undefined on success. A mount namespace that is
 * being made has copies of all mounts for a moment. Where one keeps its copy, the device is mounted
 * at the target again.
 */
function detachUnused(leaving: Leaving, waits: { attempts: number }): UnmountResult | undefined {
  for (const loop of loopsOver(imageOf(leaving.place.fuseDir))) {
    let failure = detachLoop(loop, { isUnused: true });
    while (failure?.name === 'EBUSY' && waits.attempts-- > 0) {
      pause();
      failure = detachLoop(loop, { isUnused: true });
    }
    if (failure === undefined) continue;
    const notRestored = restore(leaving);
    if (failure.name === 'EBUSY') return notRestored ?? busy(leaving, loop);
    return failed({ step: `detaching ${loop}`, failure });
  }
  return undefined;
}

/** The device, when a filesystem is mounted from it, in whatever namespace. */
function claimed(device: string): readonly string[] {
  try {
    closeSync(openSync(device, constants.O_RDONLY | constants.O_EXCL));
    return [];
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EBUSY' ? [device] : [];
  }
}

/** Mounts again what was unmounted: a device that others hold stays in use here too. */
function restore({ place, ended }: Leaving): UnmountResult | undefined {
  const isWritable = place.writable !== undefined;
  const flags = isWritable ? WRITABLE_FLAGS : MOUNT_FLAGS;
  for (const { mountPoint, source, type } of ended) {
    const options = isWritable ? EXT4_WRITABLE_OPTIONS.join() : EXT4_OPTIONS;
    const fd = openFolder(mountPoint);
    try {
      const data = type === 'ext4' ? options : '';
      const failure = mount({ source, target: pathOf(fd) }, type, { flags, data });
      if (failure !== undefined) return failed({ step: `mounting ${mountPoint} again`, failure });
    } finally {
      closeSync(fd);
    }
  }
  return undefined;
}

function busy({ place, sources }: Leaving, what: string): UnmountResult {
  return { kind: 'busy', what, holders: holdersOf({ target: place.target, sources }) };
}

/**
 * A reader of the bare file, such as a disk scan, does not keep the filesystem: the file is
 * detached from that reader.
 */
function unmountFuse(fuseDir: string, waits: { attempts: number }): UnmountResult {
  while (waits.attempts-- > 0) {
    if (!isFuseMounted(fuseDir)) return { kind: 'unmounted' };
    const failure = unmount(fuseDir, 0);
    if (failure !== undefined && failure.name !== 'EBUSY') {
      return failed({ step: `unmounting ${fuseDir}`, failure });
    }
    if (failure !== undefined) pause();
  }
  unmount(fuseDir, MNT_FORCE);
  unmount(fuseDir, MNT_DETACH);
  return { kind: 'unmounted' };
}

function isFuseMounted(fuseDir: string): boolean {
  return readMountTable().some((entry) => entry.mountPoint === fuseDir);
}

function imageOf(fuseDir: string): string {
  return `${fuseDir}/${IMAGE_FILE}`;
}

function pause(): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, RELEASE_WAIT_MS);
}
