import { closeSync, constants, openSync, readdirSync, readFileSync } from 'node:fs';
import { ioctl, type CallFailure } from '../linux.ts';

/** Requests and flags of include/uapi/linux/loop.h. */
const LOOP_CLR_FD = 0x4c01;
const LOOP_CONFIGURE = 0x4c0a;
const LOOP_CTL_GET_FREE = 0x4c82;
const LO_FLAGS_READ_ONLY = 1;
const LO_FLAGS_AUTOCLEAR = 4;
const LO_FLAGS_DIRECT_IO = 16;

/** Request of include/uapi/linux/fs.h: sets the read-ahead, in sectors of 512 bytes. */
const BLKRASET = 0x1262;

/**
 * struct loop_config: fd u32, block_size u32, loop_info64 (232 bytes, lo_flags at 52), 64 reserved.
 */
const CONFIG_BYTES = 304;
const CONFIG_FLAGS_AT = 8 + 52;
const CONFIG_NAME_AT = 8 + 56;
const CONFIG_NAME_BYTES = 64;

/**
 * Most attempts to claim a loop device. Another process may claim the free device first; more
 * losses in a row are not plausible.
 */
const CLAIM_ATTEMPTS_MAX = 64;

/**
 * Bytes that the kernel reads around a fault and ahead of a reader: its own default. A loop device
 * keeps what it had for earlier files, 2.5 MiB after one on a disk that turns. Then a program that
 * touches parts of a large file would fetch most of it.
 */
const READ_AHEAD_BYTES = 128 * 1024;

/** A new loop device; it exists while `fd` or a mount of it is open. */
export interface LoopDevice {
  readonly path: string;
  readonly fd: number;
}

/** A failed step, and its error. */
export interface StepFailure {
  readonly step: string;
  readonly failure: CallFailure;
}

/** The loop device that is wanted. */
export interface LoopInit {
  readonly blockBytes: number;
  /**
   * Whether it takes writes; the file is then open for them. It stays until it is detached, since
   * nothing may have it open between its making and its mount.
   */
  readonly isWritable: boolean;
}

/**
 * Makes a loop device over an open file. Direct I/O makes the kernel cache pages only
 * once, in the filesystem above. Autoclear removes a read-only device after its last user, even if
 * this process dies.
 */
export function attachLoop(
  backingFd: number,
  backingPath: string,
  init: LoopInit,
): LoopDevice | StepFailure {
  const config = loopConfig(backingFd, backingPath, init);
  let last: StepFailure = {
    step: 'claiming a loop device',
    failure: { errno: 16, name: 'EBUSY' },
  };
  for (let attempt = 0; attempt < CLAIM_ATTEMPTS_MAX; attempt++) {
    const number = freeLoopNumber();
    if (typeof number !== 'number') return number;
    const path = `/dev/loop${number}`;
    let fd: number;
    try {
      // The kernel makes a device read-only whose configuring descriptor is.
      fd = openSync(path, init.isWritable ? 'r+' : 'r');
    } catch (error) {
      return thrown(`opening ${path}`, error);
    }
    const result = ioctl(fd, LOOP_CONFIGURE, config);
    if (typeof result === 'number') {
      ioctl(fd, BLKRASET, READ_AHEAD_BYTES / 512); // If this fails, reads are right all the same.
      return { path, fd };
    }
    closeSync(fd);
    last = { step: `configuring ${path}`, failure: result };
    if (result.name !== 'EBUSY') break;
  }
  return last;
}

/** The /dev paths of the loop devices over each file. Only reads sysfs. */
export function loopsByFile(): ReadonlyMap<string, readonly string[]> {
  const found = new Map<string, string[]>();
  for (const name of readdirSync('/sys/block')) {
    const file = /^loop\d+$/.test(name) ? backingFileOf(name) : undefined;
    if (file === undefined) continue;
    const paths = found.get(file) ?? [];
    found.set(file, paths);
    paths.push(`/dev/${name}`);
  }
  return found;
}

/** Those over one file. */
export function loopsOver(backingPath: string): readonly string[] {
  return loopsByFile().get(backingPath) ?? [];
}

/**
 * Detaches a loop device now, or when its last user ends; undefined on success. With `isUnused`,
 * fails with EBUSY when it is mounted anywhere.
 */
export function detachLoop(path: string, { isUnused = false } = {}): CallFailure | undefined {
  let fd: number;
  try {
    fd = openSync(path, isUnused ? constants.O_RDONLY | constants.O_EXCL : 'r');
  } catch (error) {
    return thrown(`opening ${path}`, error).failure;
  }
  try {
    const result = ioctl(fd, LOOP_CLR_FD, null);
    return typeof result === 'number' ? undefined : result;
  } finally {
    closeSync(fd);
  }
}

function freeLoopNumber(): number | StepFailure {
  let fd: number;
  try {
    fd = openSync('/dev/loop-control', 'r+');
  } catch (error) {
    return thrown('opening /dev/loop-control', error);
  }
  try {
    const result = ioctl(fd, LOOP_CTL_GET_FREE, null);
    return typeof result === 'number'
      ? result
      : { step: 'asking for a free loop device', failure: result };
  } finally {
    closeSync(fd);
  }
}

function loopConfig(backingFd: number, backingPath: string, init: LoopInit): Uint8Array {
  const config = new Uint8Array(CONFIG_BYTES);
  const view = new DataView(config.buffer);
  view.setUint32(0, backingFd, true);
  view.setUint32(4, init.blockBytes, true);
  const readOnly = init.isWritable ? 0 : LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR;
  view.setUint32(CONFIG_FLAGS_AT, readOnly | LO_FLAGS_DIRECT_IO, true);
  const name = new TextEncoder().encode(backingPath).subarray(0, CONFIG_NAME_BYTES - 1);
  config.set(name, CONFIG_NAME_AT);
  return config;
}

function backingFileOf(loopName: string): string | undefined {
  try {
    const text = readFileSync(`/sys/block/${loopName}/loop/backing_file`, 'utf8').trimEnd();
    // The kernel marks a file whose name or mount is gone.
    return text.replace(/ \(deleted\)$/, '');
  } catch {
    return undefined; // Not attached.
  }
}

function thrown(step: string, error: unknown): StepFailure {
  const { code, errno } = error as NodeJS.ErrnoException;
  return { step, failure: { errno: Math.abs(errno ?? 0), name: code ?? String(error) } };
}
