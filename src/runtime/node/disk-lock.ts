import { randomBytes } from 'node:crypto';
import { closeSync, constants, existsSync, openSync, readdirSync, unlinkSync } from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { DiskError, type DiskLock } from '../disk.ts';

/**
 * Names of lock sockets: the holder's process id (in its own pid namespace, so only for people) and
 * a nonce.
 */
const LOCK_NAME = /^lock-(\d+)-[0-9a-f]{16}$/;

/** Whether a file of a folder is the lock of it, or what a crash left of one. */
export function isLockName(name: string): boolean {
  return LOCK_NAME.test(name);
}

/**
 * Most leftover names. A crash leaves at most one, which the next start removes: more than this
 * come from elsewhere.
 */
const LEFTOVERS_MAX = 1000;

/**
 * Takes a folder for this process. Rejects with DiskError `locked` while another holder lives.
 *
 * Node has no flock(2). A holder listens on a Unix socket in the folder instead. The kernel closes
 * the socket when the process ends, however it ends, so that no stale lock remains. Processes in
 * other network and pid namespaces (two pods on one hostPath) see a socket in the file system; an
 * abstract socket they do not see, and a pid in a file means nothing to them.
 *
 * Each contender first listens on a name of its own and then connects to all others. Of two
 * contenders, the second to listen finds the first listening, so that both never hold the lock. Of
 * two simultaneous contenders both may be refused.
 */
export async function lockFolder(folder: string): Promise<DiskLock> {
  const fd = openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  // The address of a Unix socket holds 107 bytes; a path through the descriptor always fits.
  const base = `/proc/self/fd/${fd}`;
  const name = `lock-${process.pid}-${randomBytes(8).toString('hex')}`;
  let server: Server | undefined;
  const release = async (): Promise<void> => {
    // Closing the server also removes the socket's name, through the descriptor.
    if (server !== undefined) await closed(server);
    closeSync(fd);
  };
  try {
    server = await listening(join(base, name));
    const holder = await otherHolder(base, name);
    if (holder !== undefined) throw lockedError(folder, holder);
    // An earlier contender, gone since, may have removed this name as a leftover before the server
    // listened.
    if (!existsSync(join(base, name))) throw lockedError(folder, name);
    return { release };
  } catch (error) {
    await release();
    throw error;
  }
}

function lockedError(folder: string, holder: string): DiskError {
  const pid = LOCK_NAME.exec(holder)?.[1] ?? 'unknown';
  return new DiskError(
    `${folder} is in use by another process (pid ${pid}); ` +
      'stop it, or give this one a folder of its own',
    { code: 'locked', path: folder },
  );
}

function listening(path: string): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => socket.destroy());
    server.on('error', reject);
    server.listen(path, () => resolve(server));
    // The lock alone does not keep the process alive.
    server.unref();
  });
}

function closed(server: Server): Promise<void> {
  return new Promise((resolve) => server.close(() => resolve()));
}

/**
 * Name of another socket in the folder on which a process listens. Removes sockets of ended
 * processes.
 */
async function otherHolder(base: string, own: string): Promise<string | undefined> {
  const others = readdirSync(base).filter((name) => LOCK_NAME.test(name) && name !== own);
  if (others.length > LEFTOVERS_MAX) {
    throw new Error(`it holds ${others.length} lock sockets; the limit is ${LEFTOVERS_MAX}`);
  }
  for (const name of others) {
    if (await answers(join(base, name))) return name;
    removeLeftover(join(base, name));
  }
  return undefined;
}

function removeLeftover(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    // Another contender may have removed it meanwhile.
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
  }
}

/**
 * Whether a process listens there. Only a refusal or a missing socket means no; a full backlog
 * (EAGAIN) means a live process.
 */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', (error) => {
      const code = 'code' in error ? error.code : undefined;
      resolve(code !== 'ECONNREFUSED' && code !== 'ENOENT');
    });
  });
}
