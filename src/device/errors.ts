import { CodedError } from '../util/errors.ts';

/** What can be wrong with a mount; `dir` is the target as the caller named it. */
export type DeviceErrorDetail =
  /** This process may not mount here, or the kernel lacks FUSE or loop: read the disk without mounting it. */
  | { readonly code: 'not-permitted'; readonly step: string }
  /** The image holds a filesystem that is not mounted by Xylem. */
  | { readonly code: 'unsupported-filesystem'; readonly filesystem: string }
  | { readonly code: 'already-mounted'; readonly dir: string }
  | { readonly code: 'target-not-usable'; readonly dir: string }
  /** No folder of `device.mountFolders` holds it. */
  | { readonly code: 'target-not-allowed'; readonly dir: string }
  /** Something still uses the mount. */
  | { readonly code: 'busy'; readonly dir: string }
  | { readonly code: 'too-many-mounts'; readonly limit: number }
  /** The service is not running: not started, or stopped. */
  | { readonly code: 'not-running' }
  /** A system call failed in a way that says nothing about the cases above. */
  | { readonly code: 'failed'; readonly step: string }
  | { readonly code: 'timeout'; readonly step: string };

/** A device that could not be made, or not be taken away. */
export class DeviceError extends CodedError<DeviceErrorDetail> {}
