import { closeSync, readdirSync } from 'node:fs';
import { blockLayers, OVERLAYBD_ANNOTATION, type DeviceImage } from '../../image/manifest.ts';
import { CodedError } from '../../util/errors.ts';
import { busy, DeviceError } from '../errors.ts';
import { notPermitted } from '../fuse/fuse-connection.ts';
import { readMountTable } from '../mount-table.ts';
import type { MountResult } from './mount-steps.ts';
import { openTarget, pathOf, type TargetFolder } from './target-folder.ts';

/** The filesystems that are mounted. */
const FILESYSTEMS: ReadonlySet<string> = new Set(['', 'ext4', 'erofs']);

/**
 * Throws DeviceError `unsupported-filesystem` unless the image holds ext4 or EROFS, or does not say
 * what.
 */
export function requireFilesystem(image: DeviceImage): void {
  const digests = new Set(blockLayers(image.manifest).map((layer) => layer.digest));
  const other = image.manifest.layers
    .filter((layer) => digests.has(layer.digest))
    .map((layer) => layer.annotations[`${OVERLAYBD_ANNOTATION}blob-fs-type`] ?? '')
    .find((type) => !FILESYSTEMS.has(type));
  if (other !== undefined) {
    throw new DeviceError(
      `cannot mount ${image.reference}: its layers hold ${other} (annotation blob-fs-type), and ` +
        'only ext4 and EROFS are mounted; convert the image again with ext4',
      { code: 'unsupported-filesystem', filesystem: other },
    );
  }
}

/**
 * Opens the folder for an image to be mounted at, below one of `folders`, and makes it where it is
 * missing. Throws DeviceError when something is mounted there or it is not empty.
 */
export function takeTarget(dir: string, folders: readonly string[]): TargetFolder {
  const target = openTarget(dir, folders);
  try {
    requireUnused(target, dir);
    return target;
  } catch (error) {
    closeSync(target.fd);
    throw error;
  }
}

function requireUnused({ fd, path }: TargetFolder, dir: string): void {
  if (readMountTable().some((entry) => entry.mountPoint === path)) {
    throw new DeviceError(`${dir} already has something mounted on it; unmount that first`, {
      code: 'already-mounted',
      dir,
    });
  }
  const [name] = readdirSync(pathOf(fd));
  if (name === undefined) return;
  throw new DeviceError(
    `${dir} is not empty (it holds ${name}): ` +
      'an image is mounted on an empty folder, or on one that can be made',
    { code: 'target-not-usable', dir },
  );
}

/** Errors that speak of the process or the kernel, and not of the image. */
const REFUSALS: ReadonlySet<string> = new Set(['EPERM', 'EACCES', 'ENOENT', 'ENODEV', 'ENXIO']);

/** Errors that speak of the filesystem: EUCLEAN is a wrong checksum or structure. */
const DAMAGES: ReadonlySet<string> = new Set(['EINVAL', 'EUCLEAN', 'EBADMSG', 'EFSCORRUPTED']);

/**
 * The device of a mount that succeeded. For one that did not it throws DeviceError, or why a read
 * of the device failed: of that the kernel says only EIO.
 */
export function requireMounted(result: MountResult, target: string, readFailure?: unknown): string {
  if (result.kind === 'mounted') return result.device;
  if (readFailure instanceof CodedError) throw readFailure;
  if (result.kind === 'unknown-filesystem') {
    throw new DeviceError(
      `cannot mount at ${target}: the block device of the image holds neither ext4 nor EROFS, ` +
        'and nothing else is mounted',
      { code: 'unsupported-filesystem', filesystem: 'unknown' },
    );
  }
  if (result.kind === 'read-only-filesystem') {
    const { filesystem } = result;
    throw new DeviceError(
      `cannot mount at ${target}: the layers of the image hold ${filesystem}, ` +
        'and a device is written as ext4 alone',
      { code: 'unsupported-filesystem', filesystem },
    );
  }
  if (result.kind === 'names-devices') {
    const { filesystem } = result;
    throw new DeviceError(
      `cannot mount at ${target}: the ${filesystem} of the image names other block devices, ` +
        'and an image is one device',
      { code: 'unsupported-filesystem', filesystem },
    );
  }
  if (result.kind !== 'failed') {
    throw new DeviceError(`mounting ${target} ended as ${result.kind}`, {
      code: 'failed',
      step: 'mount',
    });
  }
  const { step, errno } = result;
  if (REFUSALS.has(errno)) throw notPermitted(step, errno);
  if (DAMAGES.has(errno)) {
    const hint = 'its content is damaged (see the log of the kernel)';
    throw new DeviceError(`${step} failed with ${errno}: ${hint}`, { code: 'damaged', step });
  }
  throw new DeviceError(`${step} failed with ${errno}`, { code: 'failed', step });
}

/** Throws DeviceError unless the unmount of the image at `dir` succeeded. */
export function requireUnmounted(result: MountResult, dir: string): void {
  if (result.kind === 'unmounted') return;
  if (result.kind === 'busy') {
    const { what, holders } = result;
    const perhaps = 'perhaps through a bind mount, an overlay or another mount namespace';
    const how = holders.length === 0 ? `, ${perhaps}` : ` by ${holders.join(', ')}`;
    throw busy(dir, `${what} is in use${how}`);
  }
  const [step, errno] = result.kind === 'failed' ? [result.step, result.errno] : ['', result.kind];
  throw new DeviceError(`cannot unmount ${dir}: ${step} failed with ${errno}`, {
    code: 'failed',
    step,
  });
}
