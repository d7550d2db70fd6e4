import koffi from 'koffi';
import { closeSync, lstatSync, unlinkSync } from 'node:fs';
import { DeviceError } from './errors.ts';
import { errnoName } from './linux.ts';

const AF_UNIX = 1;
const AF_NETLINK = 16;
const SOCK_STREAM = 1;
const SOCK_RAW = 3;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const NETLINK_GENERIC = 16;

/** Only the owner may connect. */
const SOCKET_MODE = 0o600;

/** Clients that may wait to be accepted: more than connect at once on one host. */
const BACKLOG = 128;

/** Longest path of a Unix socket in bytes: sun_path has 108, the last one 0. */
const PATH_BYTES_MAX = 107;

const libc = koffi.load(null);
const cSocket = libc.func('int socket(int domain, int type, int protocol)');
const cSocketPair = libc.func('int socketpair(int domain, int type, int protocol, _Out_ int *fds)');
const cBind = libc.func('int bind(int fd, const uint8_t *address, uint32_t length)');
const cListen = libc.func('int listen(int fd, int backlog)');
const cFchmod = libc.func('int fchmod(int fd, uint32_t mode)');

/**
 * A descriptor that listens at a path, which only this user may open from the first moment on.
 * Replaces a socket that is there: the caller knows that nobody uses it. Throws DeviceError.
 */
export function listenUnix(path: string): number {
  const step = `listening on ${path}`;
  const name = Buffer.from(path);
  if (name.length > PATH_BYTES_MAX) {
    throw new DeviceError(
      `${step}: the path has ${name.length} bytes, and a Unix socket's at most ${PATH_BYTES_MAX}`,
      { code: 'failed', step },
    );
  }
  removeSocket(path, step);
  const fd = checked(cSocket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), step);
  try {
    // sockaddr_un: family u16 in host byte order, then the path with its 0.
    const address = Buffer.alloc(2 + name.length + 1);
    address.writeUInt16LE(AF_UNIX);
    address.set(name, 2);
    // The kernel gives the new file the mode of the socket.
    checked(cFchmod(fd, SOCKET_MODE), step);
    checked(cBind(fd, address, address.length), step);
    checked(cListen(fd, BACKLOG), step);
    return fd;
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** Two connected sockets. */
export function socketPair(): readonly [number, number] {
  const fds: [number, number] = [-1, -1];
  checked(cSocketPair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 'making a pair of sockets');
  return fds;
}

/** A socket to the kernel's generic netlink; requests are written to it, and answers read. */
export function netlinkSocket(): number {
  const type = SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK;
  return checked(cSocket(AF_NETLINK, type, NETLINK_GENERIC), 'opening netlink');
}

function removeSocket(path: string, step: string): void {
  try {
    if (!lstatSync(path).isSocket()) {
      throw new DeviceError(`${step}: something else than a socket is there`, {
        code: 'failed',
        step,
      });
    }
    unlinkSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}

/** The result of a call, if it is none of failure. */
function checked(result: unknown, step: string): number {
  if ((result as number) >= 0) return result as number;
  const name = errnoName(koffi.errno());
  throw new DeviceError(`${step} failed with ${name}`, { code: 'failed', step });
}
