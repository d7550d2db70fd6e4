import { connect } from 'node:net';
import { HostsFileError, proxySnapshotters } from './containerd-hosts.ts';

/** The name of the snapshotter that mounts block images, in containerd's configuration. */
const NAME = 'overlaybd';

/** A local socket answers at once, or somebody holds it. */
const CONNECT_MS = 3_000;

/**
 * Checks that a snapshotter for block images runs here, as containerd's configuration names it:
 * any other would unpack a block image as files. Throws HostsFileError.
 */
export async function checkBlockSnapshotter(file: string): Promise<void> {
  const address = proxySnapshotters(file).get(NAME);
  const why =
    address === undefined
      ? `${file} has no [proxy_plugins.${NAME}] with type = "snapshot"`
      : await connectFault(address);
  if (why === undefined) return;
  throw new HostsFileError(
    `no snapshotter for block images runs here: ${why}; install overlaybd-snapshotter, or leave ` +
      '--block-images out (--containerd-config names the file)',
    { code: 'snapshotter', path: file },
  );
}

function connectFault(address: string): Promise<string | undefined> {
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
