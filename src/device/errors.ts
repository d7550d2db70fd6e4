import { CodedError } from '../util/errors.ts';

/** Why a mount or an unmount failed; `dir` is the caller's name of the target. */
export type DeviceErrorDetail =
  /**
   * This process may not mount here, or the kernel lacks FUSE or loop: read the disk without a
   * mount.
   */
  | { readonly code: 'not-permitted'; readonly step: string }
  /** The image holds a filesystem that Xylem does not mount. */
  | { readonly code: 'unsupported-filesystem'; readonly filesystem: string }
  | { readonly code: 'already-mounted'; readonly dir: string }
  | { readonly code: 'target-not-usable'; readonly dir: string }
  /** No folder of `device.mountFolders` holds it. */
  | { readonly code: 'target-not-allowed'; readonly dir: string }
  /** Something still uses the mount. */
  | { readonly code: 'busy'; readonly dir: string }
  | { readonly code: 'too-many-mounts'; readonly limit: number }
  /** The service is not started, or stopped. */
  | { readonly code: 'not-running' }
  /** What the kernel found on the device is no sound filesystem. */
  | { readonly code: 'damaged'; readonly step: string }
  /** A system call failed for a reason other than those above. */
  | { readonly code: 'failed'; readonly step: string; readonly errno?: string }
  | { readonly code: 'timeout'; readonly step: string };

/** An image could not be mounted or unmounted. */
export class DeviceError extends CodedError<DeviceErrorDetail> {}

/** The service is not started, or stopped. */
export function notRunning(): DeviceError {
  return new DeviceError('the device service is not running', { code: 'not-running' });
}

/** Something of the same process is mounted at `dir`. */
export function alreadyMounted(dir: string): DeviceError {
  const text = 'this process has already mounted an image there; unmount it first';
  return new DeviceError(`cannot mount at ${dir}: ${text}`, { code: 'already-mounted', dir });
}

/** A bound of images that are mounted at a time is reached. */
export function tooManyMounts(reference: string, limit: number): DeviceError {
  const text = `${limit} images are mounted already (the limit); unmount some`;
  return new DeviceError(`cannot mount ${reference}: ${text}`, { code: 'too-many-mounts', limit });
}

/** A mount that stays, since something uses it. */
export function busy(dir: string, why: string): DeviceError {
  const text = `cannot unmount ${dir}: ${why}; end its users and try again`;
  return new DeviceError(text, { code: 'busy', dir });
}

/** A device whose unmount went wrong half-way. */
export function notUsable(dir: string, why: string): DeviceError {
  const text = `the device at ${dir} cannot be used until it is unmounted: ${why}`;
  return new DeviceError(text, { code: 'failed', step: 'unmount' });
}
