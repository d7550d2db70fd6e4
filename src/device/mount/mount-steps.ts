import { spawnSync } from 'node:child_process';
import { closeSync, openSync, readlinkSync, readSync, statfsSync } from 'node:fs';
import {
  MNT_DETACH,
  MNT_FORCE,
  MS_NOATIME,
  MS_NODEV,
  MS_NOSUID,
  MS_RDONLY,
  mount,
  unmount,
} from '../linux.ts';
import { attachLoop, detachLoop, loopsOver, type LoopInit, type StepFailure } from './loop.ts';
import { IMAGE_FILE } from '../fuse/fuse-filesystem.ts';
import { readMountTable } from './mount-table.ts';
import { pathOf } from './target-folder.ts';

/**
 * The helper process has the target folder open as this descriptor. The path of the folder could
 * lead elsewhere by now.
 */
const TARGET_FD = 3;

/**
 * The maker of an image gets no rights on the host by it: no set-user-ID programs, no device files,
 * no writes.
 */
const MOUNT_FLAGS = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOATIME;

/** How a device is written: mounted at the target, or mounted by the one who holds it. */
export type WritableMode = 'dir' | 'dev';

/**
 * A request to the helper process. `fuseDir` is where the disk's file is served, `target` where its
 * filesystem is mounted; for a mount, the target folder is open as `TARGET_FD`.
 */
export type MountRequest =
  | {
      readonly do: 'mount';
      readonly fuseDir: string;
      readonly target: string;
      /** For ext4, which gets a journal when it has none. */
      readonly writable?: WritableMode;
    }
  /**
   * `force`: fail all reads first and detach a busy mount; for a mount whose server is gone or must
   * go.
   */
  | {
      readonly do: 'unmount';
      readonly fuseDir: string;
      readonly target: string;
      readonly force: boolean;
      readonly writable?: WritableMode;
    }
  /** Makes the kernel send the server of the file any request. */
  | { readonly do: 'probe'; readonly fuseDir: string; readonly target: string };

/** The outcome of a `MountRequest`. */
export type MountResult =
  /** `device`: as the mount table names it. */
  | { readonly kind: 'mounted'; readonly device: string }
  | { readonly kind: 'probed' }
  | { readonly kind: 'unmounted' }
  | { readonly kind: 'unknown-filesystem' }
  /** The filesystem would have the kernel open other devices of the host by name or number. */
  | { readonly kind: 'names-devices'; readonly filesystem: string }
  /** The target, or the loop device through another mount of it, is in use. */
  | { readonly kind: 'busy'; readonly what: string }
  | { readonly kind: 'failed'; readonly step: string; readonly errno: string };

/**
 * noload: a journal cannot be replayed on a read-only device. errors=continue: the superblock of an
 * image may ask for a kernel panic on the first damaged block; an image may not decide that.
 */
const EXT4_OPTIONS = 'noload,errors=continue';

/**
 * After a write that fails there are no more, and no file is there whose content is not: the device
 * stays as sound as its journal. Freed blocks are discarded, so that they take no space. The tables
 * of inodes are zeros already where nothing was written.
 */
export const EXT4_WRITABLE_OPTIONS = [
  ...['errors=remount-ro', 'data_err=abort', 'discard', 'noinit_itable'],
];

/** Set-user-ID programs and device files of a container's root count, as they do in an overlay. */
const WRITABLE_FLAGS = MS_NOATIME;

/**
 * Size of a new journal, in MiB. It is written again and again, and what it holds at a commit
 * becomes part of the layer.
 */
const JOURNAL_MIB = 16;

/** What is mounted from a disk. */
const FILESYSTEMS: ReadonlySet<string> = new Set(['ext4', 'erofs']);

/** Offset of the superblock on the disk, in ext4 and EROFS. */
const SUPERBLOCK_AT = 1024;
/** Fields of struct ext4_super_block. Blocks have 1 to 64 KiB. */
const EXT4_LOG_BLOCK_SIZE_AT = 24;
const EXT4_LOG_BLOCK_SIZE_MAX = 6;
const EXT4_MAGIC_AT = 56;
const EXT4_MAGIC = 0xef53;
const EXT4_FEATURE_COMPAT_AT = 92;
const EXT4_HAS_JOURNAL = 4;
const EXT4_JOURNAL_INODE_AT = 224;
const EXT4_JOURNAL_DEVICE_AT = 228;

/** The superblock of EROFS begins at the same offset, with its magic. */
const EROFS_MAGIC = 0xe0f5e1e2;
const EROFS_FEATURE_INCOMPAT_AT = 80;
const EROFS_DEVICE_TABLE = 8;

/** Longest run of tune2fs, in milliseconds: an image may be made so that it never ends. */
const TUNE2FS_MS_MAX = 60_000;

/**
 * Largest sector of the loop device, in bytes: a page, so that direct I/O is never split below it.
 * A filesystem with smaller blocks (mke2fs gives small disks 1 KiB) does not mount on larger
 * sectors, and gets sectors of its block size.
 */
const LOOP_BLOCK_BYTES_MAX = 4096;

/**
 * Waits for a loop device to clear itself and for the kernel to release the FUSE file: 100 x 10 ms.
 */
const RELEASE_ATTEMPTS_MAX = 100;
const RELEASE_WAIT_MS = 10;

/**
 * Makes or removes the loop device and the mount over a FUSE file.
 *
 * Every step here blocks on reads that the serving process answers, so this function must run in
 * another process. If the server were killed while a thread of its own sat in such a call, the
 * kernel could never close /dev/fuse, and the mount would hang forever.
 */
export function runMountRequest(request: MountRequest): MountResult {
  if (request.do === 'probe') {
    statfsSync(request.fuseDir);
    return { kind: 'probed' };
  }
  return request.do === 'mount' ? mountImage(request) : unmountImage(request);
}

function mountImage(request: MountRequest & { readonly do: 'mount' }): MountResult {
  const { fuseDir, target, writable } = request;
  const imagePath = `${fuseDir}/${IMAGE_FILE}`;
  let backingFd: number;
  try {
    backingFd = openSync(imagePath, writable === undefined ? 'r' : 'r+');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    return { kind: 'failed', step: `opening ${imagePath}`, errno: code ?? String(error) };
  }
  try {
    if (writable !== 'dev' && readlinkSync(pathOf(TARGET_FD)) !== target) {
      return { kind: 'failed', step: `mounting at ${target}`, errno: 'ESTALE' };
    }
    const filesystem = filesystemOn(backingFd);
    if (filesystem === undefined) return { kind: 'unknown-filesystem' };
    if (namesDevices(filesystem, writable !== undefined)) {
      return { kind: 'names-devices', filesystem: filesystem.type };
    }
    const place = { target, backingFd, imagePath };
    if (writable !== undefined) {
      return filesystem.type === 'ext4'
        ? mountWritable(place, filesystem, writable)
        : { kind: 'unknown-filesystem' };
    }
    return (
      (filesystem.type === 'erofs' ? mountFile(place) : undefined) ?? mountLoop(place, filesystem)
    );
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    return { kind: 'failed', step: `reading ${imagePath}`, errno: code ?? String(error) };
  } finally {
    closeSync(backingFd);
  }
}

/** What is mounted, and where. */
interface Place {
  readonly target: string;
  readonly backingFd: number;
  readonly imagePath: string;
}

/**
 * Mounts EROFS from the file itself; undefined when the kernel mounts it from block devices alone
 * (before Linux 6.12).
 */
function mountFile({ target, imagePath }: Place): MountResult | undefined {
  const place = { source: imagePath, target: pathOf(TARGET_FD) };
  const failure = mount(place, 'erofs', { flags: MOUNT_FLAGS, data: '' });
  if (failure?.name === 'ENOTBLK') return undefined;
  const step = `mounting ${imagePath} as erofs at ${target}`;
  return failure === undefined ? mountedAt(imagePath, { target, step }) : failed({ step, failure });
}

function mountLoop({ target, backingFd, imagePath }: Place, filesystem: Filesystem): MountResult {
  const { type } = filesystem;
  const loop = attachLoop(backingFd, imagePath, loopOf(filesystem, false));
  if ('step' in loop) return failed(loop);
  const place = { source: loop.path, target: pathOf(TARGET_FD) };
  const data = type === 'ext4' ? EXT4_OPTIONS : '';
  const failure = mount(place, type, { flags: MOUNT_FLAGS, data });
  closeSync(loop.fd); // Autoclear: without a mount this detaches it.
  const step = `mounting ${loop.path} as ${type} at ${target}`;
  return failure === undefined ? mountedAt(loop.path, { target, step }) : failed({ step, failure });
}

/** When this fails on a new layer, the layer may have half of a journal: make it anew. */
function mountWritable(place: Place, filesystem: Filesystem, mode: WritableMode): MountResult {
  const loop = attachLoop(place.backingFd, place.imagePath, loopOf(filesystem, true));
  if ('step' in loop) return failed(loop);
  let result: MountResult | undefined;
  try {
    const errno = filesystem.hasJournal ? undefined : addJournal(loop.path);
    if (errno !== undefined) result = { kind: 'failed', step: `tune2fs -j ${loop.path}`, errno };
    else if (mode === 'dev') result = { kind: 'mounted', device: loop.path };
    else result = mountExt4(loop.path, place.target, pathOf(TARGET_FD));
    return result;
  } finally {
    closeSync(loop.fd);
    if (result?.kind !== 'mounted') detachLoop(loop.path);
  }
}

/** `at`: another path of the target. */
function mountExt4(device: string, target: string, at: string): MountResult {
  const step = `mounting ${device} as writable ext4 at ${target}`;
  const options = { flags: WRITABLE_FLAGS, data: EXT4_WRITABLE_OPTIONS.join() };
  const failure = mount({ source: device, target: at }, 'ext4', options);
  return failure === undefined ? mountedAt(device, { target, step }) : failed({ step, failure });
}

/** Undefined on success. */
function addJournal(device: string): string | undefined {
  const env = { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` };
  const options = ['-j', '-J', `size=${JOURNAL_MIB}`, '-e', 'remount-ro', device];
  const limit = { timeout: TUNE2FS_MS_MAX, killSignal: 'SIGKILL' } as const;
  const result = spawnSync('tune2fs', options, { env, encoding: 'utf8', ...limit });
  if (result.error !== undefined) {
    const { code, message } = result.error as NodeJS.ErrnoException;
    return code === 'ENOENT' ? 'no such program (install e2fsprogs)' : (code ?? message);
  }
  return result.status === 0 ? undefined : result.stderr.trim().slice(0, 200);
}

/** Sectors of the filesystem's block size, up to a page. */
function loopOf({ blockBytes }: Filesystem, isWritable: boolean): LoopInit {
  return { blockBytes: Math.min(LOOP_BLOCK_BYTES_MAX, blockBytes), isWritable };
}

/**
 * The result of a mount. When the folder, or one above it, was moved meanwhile, it has failed: the
 * caller removes the mount again, wherever it is.
 */
function mountedAt(
  device: string,
  { target, step }: { target: string; step: string },
): MountResult {
  const isThere = readMountTable().some((at) => at.source === device && at.mountPoint === target);
  return isThere ? { kind: 'mounted', device } : { kind: 'failed', step, errno: 'ESTALE' };
}

/** The loop device over the FUSE file, which need not be mounted; undefined for none. */
export function loopAt(fuseDir: string): string | undefined {
  return loopsOver(`${fuseDir}/${IMAGE_FILE}`)[0];
}

/** The source of what is mounted at `target` from the FUSE file; undefined for nothing. */
export function deviceAt(fuseDir: string, target: string): string | undefined {
  const sources = sourcesOver(`${fuseDir}/${IMAGE_FILE}`);
  return readMountTable().find(
    ({ source, mountPoint }) => mountPoint === target && sources.includes(source),
  )?.source;
}

/** The sources of mounts from a FUSE file: its loop devices, and itself. */
function sourcesOver(imagePath: string): string[] {
  return [...loopsOver(imagePath), imagePath];
}

interface Filesystem {
  readonly type: 'ext4' | 'erofs';
  readonly blockBytes: number;
  readonly hasJournal: boolean;
  /** Whether it wants parts of it from other devices. */
  readonly hasOtherDevices: boolean;
}

/**
 * The filesystem on a disk, and the size of its blocks in bytes; undefined for any other. Throws
 * when the disk cannot be read.
 */
function filesystemOn(fd: number): Filesystem | undefined {
  const bytes = new Uint8Array(2048);
  if (readSync(fd, bytes, 0, bytes.length, 0) < bytes.length) return undefined;
  const view = new DataView(bytes.buffer, SUPERBLOCK_AT);
  if (view.getUint32(0, true) === EROFS_MAGIC) {
    const features = view.getUint32(EROFS_FEATURE_INCOMPAT_AT, true);
    const hasOtherDevices = (features & EROFS_DEVICE_TABLE) !== 0;
    return { type: 'erofs', blockBytes: LOOP_BLOCK_BYTES_MAX, hasJournal: false, hasOtherDevices };
  }
  if (view.getUint16(EXT4_MAGIC_AT, true) !== EXT4_MAGIC) return undefined;
  const exponent = view.getUint32(EXT4_LOG_BLOCK_SIZE_AT, true);
  if (exponent > EXT4_LOG_BLOCK_SIZE_MAX) return undefined;
  const features = view.getUint32(EXT4_FEATURE_COMPAT_AT, true);
  const hasJournal = (features & EXT4_HAS_JOURNAL) !== 0;
  const isInside =
    view.getUint32(EXT4_JOURNAL_INODE_AT, true) !== 0 &&
    view.getUint32(EXT4_JOURNAL_DEVICE_AT, true) === 0;
  const hasOtherDevices = hasJournal && !isInside;
  return { type: 'ext4', blockBytes: 1024 << exponent, hasJournal, hasOtherDevices };
}

/**
 * An EROFS may have a table of devices, whose names Linux 5.19 to 6.3 open as paths, and an ext4 a
 * journal on a device of any number: an image may not choose devices of the host. Without its
 * journal, which read-only mounts do not load, an ext4 is one device.
 */
function namesDevices({ type, hasOtherDevices }: Filesystem, isWritable: boolean): boolean {
  return hasOtherDevices && (type === 'erofs' || isWritable);
}

function failed({ step, failure }: StepFailure): MountResult {
  return { kind: 'failed', step, errno: failure.name };
}

function unmountImage(request: MountRequest & { readonly do: 'unmount' }): MountResult {
  const { fuseDir, target, force, writable } = request;
  if (force) unmount(fuseDir, MNT_FORCE);
  const sources = sourcesOver(`${fuseDir}/${IMAGE_FILE}`);
  // A user may have a FUSE mount that names any source.
  const all = readMountTable().filter(
    ({ source, type }) => sources.includes(source) && FILESYSTEMS.has(type),
  );
  const places = all
    .map((entry) => entry.mountPoint)
    .filter((place) => force || place === target || writable !== undefined);
  // What is still written stays as it is.
  const other = places.find((place) => place !== target);
  if (!force && other !== undefined) return { kind: 'busy', what: other };
  for (const place of places) {
    const failure = unmount(place, force ? MNT_DETACH : 0);
    if (failure?.name === 'EBUSY') return { kind: 'busy', what: place };
    if (failure !== undefined) return failed({ step: `unmounting ${place}`, failure });
  }
  if (!force && writable !== undefined) {
    const stopped = detachUnused(fuseDir, places.length > 0 ? target : undefined);
    if (stopped !== undefined) return stopped;
  }
  if (!areLoopsGone(fuseDir, force)) return { kind: 'busy', what: sources.join(', ') };
  return unmountFuse(fuseDir);
}

/**
 * Detaches the loop device that nobody has mounted; undefined on success. A mount namespace that is
 * being made has copies of all mounts for a moment. Where one keeps its copy, the device is mounted
 * at the target again.
 */
function detachUnused(fuseDir: string, target: string | undefined): MountResult | undefined {
  for (const loop of loopsOver(`${fuseDir}/${IMAGE_FILE}`)) {
    let failure = detachLoop(loop, { isUnused: true });
    for (let attempt = 1; failure?.name === 'EBUSY' && attempt < RELEASE_ATTEMPTS_MAX; attempt++) {
      pause();
      failure = detachLoop(loop, { isUnused: true });
    }
    if (failure === undefined) continue;
    if (target !== undefined) mountExt4(loop, target, target);
    if (failure.name === 'EBUSY') return { kind: 'busy', what: loop };
    return failed({ step: `detaching ${loop}`, failure });
  }
  return undefined;
}

/**
 * Autoclear is not instant in every kernel, and a bind mount or a namespace may hold the device for
 * long.
 */
function areLoopsGone(fuseDir: string, force: boolean): boolean {
  const backing = `${fuseDir}/${IMAGE_FILE}`;
  for (let attempt = 0; attempt < RELEASE_ATTEMPTS_MAX; attempt++) {
    const loops = loopsOver(backing);
    if (loops.length === 0) return true;
    if (force) {
      for (const loop of loops) detachLoop(loop);
      return true;
    }
    pause();
  }
  return false;
}

/**
 * A reader of the bare file, such as a disk scan, does not keep the filesystem: the file is
 * detached from that reader.
 */
function unmountFuse(fuseDir: string): MountResult {
  for (let attempt = 0; attempt < RELEASE_ATTEMPTS_MAX; attempt++) {
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

function pause(): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, RELEASE_WAIT_MS);
}
