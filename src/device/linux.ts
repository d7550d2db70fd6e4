import koffi from 'koffi';
import { closeSync } from 'node:fs';
import { constants } from 'node:os';

/** A system call that failed. */
export interface CallFailure {
  /** Positive number of the error, as in errno(3). */
  readonly errno: number;
  /** Its name, such as `EBUSY`. */
  readonly name: string;
}

/** mount(2): read-only. */
export const MS_RDONLY = 1;
/** mount(2): ignores set-user-ID bits. */
export const MS_NOSUID = 2;
/** mount(2): no access to device files. */
export const MS_NODEV = 4;
/** mount(2): no updates of access times. */
export const MS_NOATIME = 1024;
/** mount(2): shows what the source has. */
export const MS_BIND = 4096;
/** umount2(2): fails the filesystem's requests in flight. */
export const MNT_FORCE = 1;
/** umount2(2): detaches now, and unmounts when the last user ends. */
export const MNT_DETACH = 2;
const UMOUNT_NOFOLLOW = 8;
const PR_SET_PDEATHSIG = 1;
const PR_SET_IO_FLUSHER = 57;
/** fallocate(2): the range becomes a hole, and the size stays. */
const PUNCH_HOLE_KEEP_SIZE = 3;

/** The C library that Node itself uses: glibc or musl. */
const libc = koffi.load(null);
const cMount = libc.func(
  'int mount(const char *source, const char *target, const char *type, ' +
    'unsigned long flags, const char *data)',
);
const cUmount2 = libc.func('int umount2(const char *target, int flags)');
const cIoctl = libc.func('int ioctl(int fd, unsigned long request, uint8_t *argument)');
const cIoctlNumber = libc.func('int ioctl(int fd, unsigned long request, unsigned long argument)');
const cPrctl = libc.func(
  'int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)',
);

const cFallocate = libc.func('int fallocate(int fd, int mode, int64_t offset, int64_t length)');
const cSyscall = libc.func('long syscall(long number, long a, long b, long c)');
/** The same on x86-64 and arm64: Linux numbers new calls alike everywhere. */
const SYS_PIDFD_OPEN = 434;
const SYS_PIDFD_GETFD = 438;

const ERRNO_NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(constants.errno).map(([name, value]) => [value, name]),
);

/** The name of an error, such as `EBUSY`. */
export function errnoName(errno: number): string {
  return ERRNO_NAMES.get(errno) ?? `errno ${errno}`;
}

function failure(): CallFailure {
  const errno = koffi.errno();
  return { errno, name: errnoName(errno) };
}

/** mount(2); undefined on success. Blocks until the filesystem's first reads are answered. */
export function mount(
  place: { source: string; target: string },
  type: string,
  options: { flags: number; data: string },
): CallFailure | undefined {
  const result = cMount(place.source, place.target, type, options.flags, options.data) as number;
  return result === 0 ? undefined : failure();
}

/**
 * umount2(2) of what is at the path itself, not at the end of a symbolic link; undefined when it
 * succeeded.
 */
export function unmount(target: string, flags: number): CallFailure | undefined {
  return (cUmount2(target, flags | UMOUNT_NOFOLLOW) as number) === 0 ? undefined : failure();
}

/**
 * ioctl(2) with a structure, a number, or null for none; gives its result, which is not negative,
 * or the failure.
 */
export function ioctl(
  fd: number,
  request: number,
  argument: Uint8Array | number | null,
): number | CallFailure {
  const call = typeof argument === 'number' ? cIoctlNumber : cIoctl;
  const result = call(fd, request, argument) as number;
  return result >= 0 ? result : failure();
}

/** Makes the kernel kill this process when the thread that started it ends. */
export function dieWithParent(): void {
  cPrctl(PR_SET_PDEATHSIG, constants.signals.SIGKILL, 0, 0, 0);
}

/**
 * Has the kernel give this thread, and all threads and processes that it starts, memory without
 * waiting for written pages to reach a device: they may be on their way to a device that this very
 * process serves. False when the kernel refuses (before Linux 5.6, or without CAP_SYS_RESOURCE).
 */
export function neverWaitForWriteback(): boolean {
  return (cPrctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) as number) === 0;
}

/**
 * Gives the space of a range of an open file back, which reads as zeros then; false when the file
 * system cannot. The call runs in a thread of its own.
 */
export function punchHole(fd: number, offset: number, length: number): Promise<boolean> {
  return new Promise((resolve) => {
    cFallocate.async(fd, PUNCH_HOLE_KEEP_SIZE, offset, length, (error: unknown, result: number) =>
      resolve(!(error instanceof Error) && result === 0),
    );
  });
}

/**
 * A descriptor of our own for what another process has open as `fd` (Linux 5.6; the other process
 * is a child, or this one has CAP_SYS_PTRACE). The caller closes it. Programs that this process
 * starts do not inherit it by itself.
 */
export function takeDescriptor(pid: number, fd: number): number | CallFailure {
  const process = Number(cSyscall(SYS_PIDFD_OPEN, pid, 0, 0));
  if (process < 0) return failure();
  try {
    const taken = Number(cSyscall(SYS_PIDFD_GETFD, process, fd, 0));
    return taken < 0 ? failure() : taken;
  } finally {
    closeSync(process);
  }
}
