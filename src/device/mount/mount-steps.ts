import { closeSync, openSync, readlinkSync, readSync } from 'node:fs';
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
import { attachLoop, detachLoop, loopsOver, type StepFailure } from './loop.ts';
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

/**
 * A request to the helper process. `fuseDir` is where the disk's file is served, `target` where its
 * filesystem is mounted; for a mount, the target folder is open as `TARGET_FD`.
 */
export type MountRequest =
  | { readonly do: 'mount'; readonly fuseDir: string; readonly target: string }
  /**
   * `force`: fail all reads first and detach a busy mount; for a mount whose server is gone or must
   * go.
   */
  | {
      readonly do: 'unmount';
      readonly fuseDir: string;
      readonly target: string;
      readonly force: boolean;
    };

/** The outcome of a `MountRequest`. */
export type MountResult =
  | { readonly kind: 'mounted'; readonly loop: string }
  | { readonly kind: 'unmounted' }
  | { readonly kind: 'not-ext4' }
  /** The target, or the loop device through another mount of it, is in use. */
  | { readonly kind: 'busy'; readonly what: string }
  | { readonly kind: 'failed'; readonly step: string; readonly errno: string };

/**
 * noload: a journal cannot be replayed on a read-only device. errors=continue: the superblock of an
 * image may ask for a kernel panic on the first damaged block; an image may not decide that.
 */
const EXT4_OPTIONS = 'noload,errors=continue';

/**
 * The superblock of ext4: its offset on the disk, and fields of struct ext4_super_block. Blocks
 * have 1 to 64 KiB.
 */
const EXT4_SUPERBLOCK_AT = 1024;
const EXT4_LOG_BLOCK_SIZE_AT = 24;
const EXT4_LOG_BLOCK_SIZE_MAX = 6;
const EXT4_MAGIC_AT = 56;
const EXT4_MAGIC = 0xef53;

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
  return request.do === 'mount' ? mountImage(request) : unmountImage(request);
}

function mountImage({ fuseDir, target }: { fuseDir: string; target: string }): MountResult {
  const imagePath = `${fuseDir}/${IMAGE_FILE}`;
  let backingFd: number;
  try {
    backingFd = openSync(imagePath, 'r');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    return { kind: 'failed', step: `opening ${imagePath}`, errno: code ?? String(error) };
  }
  try {
    if (readlinkSync(pathOf(TARGET_FD)) !== target) {
      return { kind: 'failed', step: `mounting at ${target}`, errno: 'ESTALE' };
    }
    const blockBytes = ext4BlockBytes(backingFd);
    if (blockBytes === undefined) return { kind: 'not-ext4' };
    const loopBlockBytes = Math.min(LOOP_BLOCK_BYTES_MAX, blockBytes);
    const loop = attachLoop(backingFd, imagePath, loopBlockBytes);
    if ('step' in loop) return failed(loop);
    const place = { source: loop.path, target: pathOf(TARGET_FD) };
    const failure = mount(place, 'ext4', { flags: MOUNT_FLAGS, data: EXT4_OPTIONS });
    closeSync(loop.fd); // Autoclear: without a mount this detaches it.
    const step = `mounting ${loop.path} as ext4 at ${target}`;
    if (failure !== undefined) return failed({ step, failure });
    // The folder, or one above it, was moved. The caller removes the mount again, wherever it is.
    if (!isMountedAt(loop.path, target)) return { kind: 'failed', step, errno: 'ESTALE' };
    return { kind: 'mounted', loop: loop.path };
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    return { kind: 'failed', step: `reading ${imagePath}`, errno: code ?? String(error) };
  } finally {
    closeSync(backingFd);
  }
}

function isMountedAt(source: string, target: string): boolean {
  return readMountTable().some((at) => at.source === source && at.mountPoint === target);
}

/**
 * Block size in bytes of the ext4 on a disk; undefined when the disk holds no ext4. Throws when the
 * disk cannot be read.
 */
function ext4BlockBytes(fd: number): number | undefined {
  const bytes = new Uint8Array(2048);
  if (readSync(fd, bytes, 0, bytes.length, 0) < bytes.length) return undefined;
  const view = new DataView(bytes.buffer, EXT4_SUPERBLOCK_AT);
  if (view.getUint16(EXT4_MAGIC_AT, true) !== EXT4_MAGIC) return undefined;
  const exponent = view.getUint32(EXT4_LOG_BLOCK_SIZE_AT, true);
  return exponent <= EXT4_LOG_BLOCK_SIZE_MAX ? 1024 << exponent : undefined;
}

function failed({ step, failure }: StepFailure): MountResult {
  return { kind: 'failed', step, errno: failure.name };
}

function unmountImage(request: { fuseDir: string; target: string; force: boolean }): MountResult {
  const { fuseDir, target, force } = request;
  if (force) unmount(fuseDir, MNT_FORCE);
  const loops = loopsOver(`${fuseDir}/${IMAGE_FILE}`);
  const places = readMountTable()
    .filter((entry) => loops.includes(entry.source) && (force || entry.mountPoint === target))
    .map((entry) => entry.mountPoint);
  for (const place of places) {
    const failure = unmount(place, force ? MNT_DETACH : 0);
    if (failure?.name === 'EBUSY') return { kind: 'busy', what: place };
    if (failure !== undefined) return failed({ step: `unmounting ${place}`, failure });
  }
  if (!areLoopsGone(fuseDir, force)) return { kind: 'busy', what: loops.join(', ') };
  return unmountFuse(fuseDir);
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
