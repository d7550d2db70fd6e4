import { dirname, join } from 'node:path';
import { z } from 'zod';
import type { BackendKind } from '../../device/backends.ts';
import { READ_TIMEOUT_MS, TIMEOUT_MS_MAX } from '../../device/link/limits.ts';
import { DEVICE_ADMIN_SOCKET, NO_SOCKET } from './admin-socket.ts';
import {
  absolutePath,
  count,
  item,
  key,
  list,
  LIST_LENGTH_MAX,
  LISTEN_RULE,
  listenAddress,
  path,
  PATH_RULE,
  size,
  SOCKET_RULE,
  socketPath,
} from './shapes.ts';

const BACKENDS: readonly BackendKind[] = ['loop', 'nbd'];

/** Outside of what the host's own services read. */
const MOUNT_FOLDERS = ['/var/lib/xylem/mounts', '/run/xylem/mounts'];

/** Where `xylem device` is a snapshotter, if nothing else is said, and keeps its snapshots. */
export const SNAPSHOTTER_SOCKET = '/run/xylem/snapshotter/snapshotter.sock';
/** See `SNAPSHOTTER_SOCKET`. */
export const SNAPSHOTS_DIR = '/var/lib/xylem/snapshots';

/** Of what a writable device takes: room for its journal, at least. */
const WRITABLE_BYTES_MIN = 64 * 2 ** 20;
const WRITABLE_BYTES = 10 * 2 ** 30;
const WRITABLE_BYTES_MAX = 2 ** 40;

/** Name of the device socket beside the admin socket: as long as `admin.sock`. */
const AGENT_SOCKET_NAME = 'agent.sock';

/** The section `device` of the configuration. */
export const deviceKeys = z.strictObject({
  enabled: key(z.boolean().default(false), {
    description:
      "Serve block devices from the agent's own process, for development: " +
      'containers on them die with the agent.',
    rule: 'true or false',
  }),
  backend: key(z.enum(BACKENDS).default('loop'), {
    description:
      'How the kernel reads devices: `loop`, through FUSE and loop devices, or `nbd`, through ' +
      "the kernel's NBD driver. Without that driver `nbd` fails at the start.",
    rule: '"loop" or "nbd"',
  }),
  stateDir: key(path.default('/run/xylem/device'), {
    description: 'Folder for the records of mounts, and for the FUSE mounts.',
    rule: PATH_RULE,
  }),
  agentSocket: key(socketPath.optional(), {
    description:
      'Unix socket on which the agent serves `xylem device`, and where that asks. Its folder is ' +
      'closed to other users: a process that may open it reads all that the agent may. ' +
      `Not set: \`${AGENT_SOCKET_NAME}\` beside \`admin.socket\`.`,
    rule: SOCKET_RULE,
  }),
  readTimeoutMs: key(count(1_000, TIMEOUT_MS_MAX).default(READ_TIMEOUT_MS), {
    description:
      'How long a read of a device waits for the agent, its peers and the registry, in ' +
      'milliseconds. Then it fails with EIO.',
    rule: `a whole number from 1000 to ${TIMEOUT_MS_MAX}`,
  }),
  snapshotterSocket: key(socketPath.default(SNAPSHOTTER_SOCKET), {
    description:
      'Unix socket on which `xylem device` is a snapshotter of containerd (proxy_plugins).',
    rule: SOCKET_RULE,
  }),
  snapshotsDir: key(absolutePath.default(SNAPSHOTS_DIR), {
    description:
      'Folder for what containers write, for the layers of ordinary images, and for the ' +
      'metadata of snapshots. Not on a file system that overlayfs refuses (NFS, overlayfs).',
    rule: 'an absolute path',
  }),
  writableSizeMax: key(size(WRITABLE_BYTES_MIN, WRITABLE_BYTES_MAX).default(WRITABLE_BYTES), {
    description:
      'Most space that one writable device takes on the disk of `device.snapshotsDir` ' +
      '(label `containerd.io/snapshot/overlaybd.writable`). Writes beyond it fail.',
    rule: 'a size from 64MiB to 1TiB, such as 20GiB or a number of bytes',
  }),
  adminSocket: key(socketPath.default(DEVICE_ADMIN_SOCKET), {
    description:
      'Unix socket on which `xylem device` takes commands: those of the admin endpoint that ' +
      'concern mounts and devices. Its folder is closed to other users.',
    rule: SOCKET_RULE,
  }),
  adminListen: key(listenAddress.default('127.0.0.1:19148'), {
    description: 'Address of the probes and metrics of `xylem device`.',
    rule: LISTEN_RULE,
  }),
  mountFolders: key(list(item(absolutePath, 'an absolute path')).default(MOUNT_FOLDERS), {
    description:
      'Folders below which `xylem mount` mounts, however deep, and nowhere else. One that ' +
      'is missing is made. Below them no symbolic link is followed.',
    rule: `a list of at most ${LIST_LENGTH_MAX} absolute paths`,
  }),
});

/** Where the agent listens for device processes, and where they ask; undefined: nowhere. */
export function agentSocketOf(config: {
  readonly admin: { readonly socket: string };
  readonly device: { readonly agentSocket?: string | undefined };
}): string | undefined {
  const { admin, device } = config;
  const beside =
    admin.socket === NO_SOCKET ? NO_SOCKET : join(dirname(admin.socket), AGENT_SOCKET_NAME);
  const chosen = device.agentSocket ?? beside;
  return chosen === NO_SOCKET ? undefined : chosen;
}
