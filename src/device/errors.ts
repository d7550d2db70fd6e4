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
  /** A system call failed for a reason other than those above. */
  | { readonly code: 'failed'; readonly step: string }
  | { readonly code: 'timeout'; readonly step: string };

/** An image could not be mounted or unmounted. */
export class DeviceError extends CodedError<DeviceErrorDetail> {}
