import { spawnSync } from 'node:child_process';
import { closeSync, openSync, readlinkSync, readSync, statfsSync } from 'node:fs';
import { IMAGE_FILE } from '../fuse/fuse-filesystem.ts';
import { mount } from '../linux.ts';
import { readMountTable } from '../mount-table.ts';
import { defined } from '../../util/assert.ts';
import { attachLoop, detachLoop, type LoopInit } from './loop.ts';
import {
  EXT4_OPTIONS,
  EXT4_WRITABLE_OPTIONS,
  MOUNT_FLAGS,
  WRITABLE_FLAGS,
  type WritableMode,
} from './mount-options.ts';
import { pathOf } from './target-folder.ts';
import {
  failed,
  unmountImages,
  type UnmountAllRequest,
  type UnmountRequest,
  type UnmountResult,
} from './unmount-steps.ts';

/**
 * The helper process has the target folder open as this descriptor. The path of the folder could
 * lead elsewhere by now.
 */
const TARGET_FD = 3;

/**
 * A request to the helper process. `fuseDir` is where the disk's file is served, unless `nbd` is
 * its device; `target` is where its filesystem is mounted; for a mount, the target folder is open
 * as `TARGET_FD`.
 */
export type MountRequest =
  | {
      readonly do: 'mount';
      readonly fuseDir: string;
      readonly nbd?: string | undefined;
      readonly target: string;
      /** For ext4, which gets a journal when it has none. */
      readonly writable?: WritableMode;
    }
  | ({ readonly do: 'unmount' } & UnmountRequest)
  | UnmountAllRequest
  /** Makes the kernel send the server of the file any request. */
  | { readonly do: 'probe'; readonly fuseDir: string; readonly target: string };

/** The outcome of a `MountRequest`. */
export type MountResult =
  /** `device`: as the mount table names it. */
  | { readonly kind: 'mounted'; readonly device: string }
  | { readonly kind: 'probed' }
  | { readonly kind: 'unknown-filesystem' }
  /** It is never written. */
  | { readonly kind: 'read-only-filesystem'; readonly filesystem: string }
  /** The filesystem would have the kernel open other devices of the host by name or number. */
  | { readonly kind: 'names-devices'; readonly filesystem: string }
  | UnmountResult
  /** Of an `unmount-all`, in its order. */
  | { readonly kind: 'ended'; readonly results: readonly UnmountResult[] };

/**
 * Size of a new journal, in MiB. It is written again and again, and what it holds at a commit
 * becomes part of the layer.
 */
const JOURNAL_MIB = 16;

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
  if (request.do === 'mount') return mountImage(request);
  if (request.do === 'unmount-all') return { kind: 'ended', results: unmountImages(request) };
  const [result] = unmountImages({ mounts: [request], force: request.force });
  return defined(result, 'each mount has a result');
}

function mountImage(request: MountRequest & { readonly do: 'mount' }): MountResult {
  const { fuseDir, nbd, target, writable } = request;
  const imagePath = nbd ?? `${fuseDir}/${IMAGE_FILE}`;
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
        : { kind: 'read-only-filesystem', filesystem: filesystem.type };
    }
    if (nbd !== undefined) return mountDevice(place, nbd, filesystem);
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

function mountLoop(place: Place, filesystem: Filesystem): MountResult {
  const { backingFd, imagePath } = place;
  const loop = attachLoop(backingFd, imagePath, loopOf(filesystem, false));
  if ('step' in loop) return failed(loop);
  try {
    return mountDevice(place, loop.path, filesystem);
  } finally {
    closeSync(loop.fd); // Autoclear: without a mount this detaches it.
  }
}

function mountDevice({ target }: Place, device: string, { type }: Filesystem): MountResult {
  const place = { source: device, target: pathOf(TARGET_FD) };
  const data = type === 'ext4' ? EXT4_OPTIONS : '';
  const failure = mount(place, type, { flags: MOUNT_FLAGS, data });
  const step = `mounting ${device} as ${type} at ${target}`;
  return failure === undefined ? mountedAt(device, { target, step }) : failed({ step, failure });
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
