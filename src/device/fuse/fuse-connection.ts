import { closeSync, openSync, writeSync } from 'node:fs';
import type { Logger } from '../../runtime/logger.ts';
import { errorText } from '../../util/errors.ts';
import { DeviceError } from '../errors.ts';
import { mount } from '../linux.ts';

/** Mounts a FUSE filesystem at an empty folder; gives the connection. Throws DeviceError. */
export function mountFuse(path: string, flags: number): number {
  const fd = openFuse();
  const data = `fd=${fd},rootmode=40000,user_id=0,group_id=0`;
  const failure = mount({ source: 'xylem', target: path }, 'fuse.xylem', { flags, data });
  if (failure === undefined) return fd;
  closeSync(fd);
  throw notPermitted(`mounting FUSE at ${path}`, failure.name);
}

function openFuse(): number {
  try {
    return openSync('/dev/fuse', 'r+');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw notPermitted('opening /dev/fuse', code ?? String(error));
  }
}

/** Writes an answer to the kernel. What it refuses is logged: nobody can be told. */
export function writeAnswer(
  { fd, path, logger }: { readonly fd: number; readonly path: string; readonly logger: Logger },
  bytes: Uint8Array,
  length = bytes.length,
): void {
  try {
    writeSync(fd, bytes, 0, length);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    // Interrupted, aborted or unmounted meanwhile: no process waits for the answer.
    if (code === 'ENOENT' || code === 'ENODEV' || code === 'ECONNABORTED') return;
    logger.error({ path, error: errorText(error) }, 'cannot answer a FUSE request');
  }
}

/** For a step that lacks rights or kernel features. */
export function notPermitted(step: string, found: string): DeviceError {
  return new DeviceError(
    `cannot mount images here: ${step} failed with ${found}. ` +
      'Mounts need root (CAP_SYS_ADMIN), /dev/fuse and loop devices; ' +
      'in a container, run privileged. Images can be read without a mount',
    { code: 'not-permitted', step },
  );
}
