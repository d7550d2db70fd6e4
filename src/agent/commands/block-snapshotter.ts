import { connect } from 'node:net';
import { SNAPSHOTTER_NAME } from './containerd-config.ts';
import { ContainerdFileError, proxySnapshotters } from './containerd-files.ts';

/** The names of snapshotters that mount block images, in containerd's configuration. */
const NAMES = [SNAPSHOTTER_NAME, 'overlaybd'];

/** A local socket answers at once, or somebody holds it. */
const CONNECT_MS = 3_000;

/**
 * Checks that a snapshotter for block images runs here, at a socket that is about to be
 * containerd's, or as containerd's configuration names it: any other would unpack a block image as
 * files. Throws ContainerdFileError.
 */
export async function checkBlockSnapshotter(file: string, socket?: string): Promise<void> {
  const known = proxySnapshotters(file);
  const named = NAMES.flatMap((name) => known.get(name) ?? []);
  const faults: string[] = [];
  for (const address of socket === undefined ? named : [socket]) {
    const fault = await connectFault(address);
    if (fault === undefined) return;
    faults.push(fault);
  }
  const tables = NAMES.map((name) => `[proxy_plugins.${name}]`).join(' or ');
  const why =
    faults.length === 0 ? `${file} has no ${tables} with type = "snapshot"` : faults.join(', ');
  throw new ContainerdFileError(
    `no snapshotter for block images runs here: ${why}; run \`xylem device\` and add ` +
      '--snapshotter, or install overlaybd-snapshotter, or leave --block-images out ' +
      '(--containerd-config names the file)',
    { code: 'snapshotter', path: file },
  );
}

/** Why nobody answers at the socket of a snapshotter; undefined when somebody does. */
export function connectFault(address: string): Promise<string | undefined> {
  const path = address.replace(/^unix:\/\//, '');
  return new Promise((resolve) => {
    const socket = connect(path);
    const end = (fault: string | undefined): void => {
      socket.destroy();
      resolve(fault);
    };
    socket.setTimeout(CONNECT_MS, () => end(`nobody answers at ${path}`));
    socket.once('connect', () => end(undefined));
    socket.once('error', (error: NodeJS.ErrnoException) =>
      end(`nobody listens at ${path} (${error.code ?? error.message})`),
    );
  });
}
