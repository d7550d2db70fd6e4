import { MS_NOATIME, MS_NODEV, MS_NOSUID, MS_RDONLY } from '../linux.ts';

/** How a device is written: mounted at the target, or mounted by the one who holds it. */
export type WritableMode = 'dir' | 'dev';

/**
 * The maker of an image gets no rights on the host by it: no set-user-ID programs, no device files,
 * no writes.
 */
export const MOUNT_FLAGS = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOATIME;

/**
 * noload: a journal cannot be replayed on a read-only device. errors=continue: the superblock of an
 * image may ask for a kernel panic on the first damaged block; an image may not decide that.
 */
export const EXT4_OPTIONS = 'noload,errors=continue';

/**
 * After a write that fails there are no more, and no file is there whose content is not: the device
 * stays as sound as its journal. Freed blocks are discarded, so that they take no space. The tables
 * of inodes are zeros already where nothing was written.
 */
export const EXT4_WRITABLE_OPTIONS = [
  ...['errors=remount-ro', 'data_err=abort', 'discard', 'noinit_itable'],
];

/** Set-user-ID programs and device files of a container's root count, as they do in an overlay. */
export const WRITABLE_FLAGS = MS_NOATIME;
