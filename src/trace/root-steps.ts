import {
  closeSync,
  constants,
  fstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { DeviceError } from '../device/errors.ts';
import { MNT_DETACH, MS_BIND, MS_NODEV, MS_NOSUID, mount, unmount } from '../device/linux.ts';
import { openTarget, pathOf } from '../device/mount/target-folder.ts';
import { errorText } from '../util/errors.ts';
import { findUser, type ProcessUser } from './image-process.ts';

/** A request to the helper process; `folder` holds what the command writes, and its root. */
export type RootRequest =
  | {
      readonly do: 'make';
      readonly lower: string;
      readonly folder: string;
      readonly user: string;
      /** Also makes /dev, and a folder for /proc, as runc does by itself. */
      readonly withDevices: boolean;
    }
  | { readonly do: 'remove'; readonly folder: string };

/** The outcome of a `RootRequest`. */
export type RootResult =
  | { readonly kind: 'made'; readonly user: ProcessUser }
  | { readonly kind: 'removed' }
  | { readonly kind: 'unknown-user' }
  | { readonly kind: 'failed'; readonly step: string; readonly why: string };

/** Largest file of users or groups that is read, in bytes. */
const USERS_BYTES_MAX = 1024 * 1024;

/** Files of the host that name other hosts. */
const HOST_FILES = ['resolv.conf', 'hosts'];

/** Devices that every program may use. */
const DEVICES = ['null', 'zero', 'full', 'random', 'urandom', 'tty'];

const LINKS: Readonly<Record<string, string>> = {
  fd: '/proc/self/fd',
  stdin: '/proc/self/fd/0',
  stdout: '/proc/self/fd/1',
  stderr: '/proc/self/fd/2',
};

/** Where the root of the command is, in the folder of its request. */
export function rootOf(folder: string): string {
  return join(folder, 'root');
}

/**
 * Makes or removes the root of the command: an overlay that takes its writes, on the mounted image.
 * Every step may wait for reads of the image, which another process serves.
 */
export function runRootRequest(request: RootRequest): RootResult {
  const root = rootOf(request.folder);
  if (request.do === 'remove') {
    const failure = unmount(root, MNT_DETACH);
    return failure === undefined || failure.name === 'EINVAL'
      ? { kind: 'removed' }
      : { kind: 'failed', step: `unmounting ${root}`, why: failure.name };
  }
  let step = 'making folders';
  try {
    const [upper, work] = [join(request.folder, 'upper'), join(request.folder, 'work')];
    for (const path of [upper, work, root]) mkdirSync(path);
    step = 'mounting an overlay on the image';
    const parts = { lowerdir: request.lower, upperdir: upper, workdir: work };
    const options = Object.entries(parts).map(([name, path]) => `${name}=${escaped(path)}`);
    mountOr(step, { source: 'xylem', target: root }, 'overlay', options.join(','));
    step = 'putting the names of hosts into /etc';
    copyHostFiles(root);
    step = 'reading the users of the image';
    const user = findUser(request.user, textIn(root, 'passwd'), textIn(root, 'group'));
    if (user === undefined) return { kind: 'unknown-user' };
    step = 'making /dev and /proc';
    if (request.withDevices) makeDevices(root);
    return { kind: 'made', user };
  } catch (error) {
    return { kind: 'failed', step, why: errorText(error) };
  }
}

function mountOr(
  step: string,
  place: { readonly source: string; readonly target: string },
  type: string,
  data: string,
): void {
  const flags = type === '' ? MS_BIND : MS_NOSUID | (type === 'overlay' ? MS_NODEV : 0);
  const failure = mount(place, type, { flags, data });
  if (failure !== undefined) throw new Error(`${step} failed with ${failure.name}`);
}

/** As mount options of overlay need it. */
function escaped(path: string): string {
  return path.replaceAll(/[\\:,]/g, (mark) => `\\${mark}`);
}

/** Opens a folder of the image, which is made where it is missing; follows no link out of it. */
function inFolder<T>(root: string, name: string, use: (path: string) => T): T {
  const { fd } = openTarget(join(root, name), [root]);
  try {
    return use(pathOf(fd));
  } finally {
    closeSync(fd);
  }
}

/** The same for /etc; undefined where that is a link. */
function inEtc<T>(root: string, use: (path: string) => T): T | undefined {
  try {
    return inFolder(root, 'etc', use);
  } catch (error) {
    if (error instanceof DeviceError && error.code === 'target-not-usable') return undefined;
    throw error;
  }
}

function copyHostFiles(root: string): void {
  inEtc(root, (etc) => {
    for (const name of HOST_FILES) {
      const text = hostFile(`/etc/${name}`);
      if (text === undefined) continue;
      rmSync(`${etc}/${name}`, { force: true });
      writeFileSync(`${etc}/${name}`, text, { flag: 'wx' });
    }
  });
}

function hostFile(path: string): Buffer | undefined {
  try {
    return readFileSync(path);
  } catch {
    return undefined;
  }
}

/** A small file in /etc of the image; empty when there is no such file. */
function textIn(root: string, name: string): string {
  const text = inEtc(root, (etc) => {
    const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
    let fd: number;
    try {
      fd = openSync(`${etc}/${name}`, flags);
    } catch {
      return '';
    }
    try {
      const stat = fstatSync(fd);
      if (!stat.isFile()) return '';
      const bytes = Buffer.alloc(Math.min(stat.size, USERS_BYTES_MAX));
      return bytes.toString('utf8', 0, readSync(fd, bytes));
    } finally {
      closeSync(fd);
    }
  });
  return text ?? '';
}

function makeDevices(root: string): void {
  inFolder(root, 'proc', () => {});
  inFolder(root, 'dev', (dev) =>
    mountOr('mounting /dev', { source: 'dev', target: dev }, 'tmpfs', 'mode=755'),
  );
  // It is ours now, and no longer the image's.
  inFolder(root, 'dev', (dev) => {
    for (const name of DEVICES) {
      writeFileSync(`${dev}/${name}`, '');
      const place = { source: `/dev/${name}`, target: `${dev}/${name}` };
      mountOr(`binding /dev/${name}`, place, '', '');
    }
    for (const [name, target] of Object.entries(LINKS)) symlinkSync(target, `${dev}/${name}`);
    mkdirSync(`${dev}/shm`, { mode: 0o1777 });
  });
}
