import { randomBytes } from 'node:crypto';
import { closeSync, constants, existsSync, openSync, readdirSync, unlinkSync } from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { DiskError, type DiskLock } from '../disk.ts';

/** Names of lock sockets: the holder's process id (in its own pid namespace: for people alone) and a nonce. */
const LOCK_NAME = /^lock-(\d+)-[0-9a-f]{16}$/;

/** Every crash leaves one name at most, which the next start removes: more of them than this is not our doing. */
const LEFTOVERS_MAX = 1000;

/**
 * Takes a folder for this process. Rejects with DiskError `locked` while another holder lives.
 *
 * Node has no flock(2). A holder listens on a Unix socket in the folder instead: the kernel stops listening when the process ends,
 * however it ends, so that nothing stale can bar the way; and a socket in the file system is seen from other network and pid
 * namespaces (two pods on one hostPath), where an abstract socket and a pid file are not.
 *
 * Every contender first listens on a name of its own and then knocks at all others. Of two contenders the one that listened
 * second finds the first one listening, so that never both hold; when they come at the same moment both may be refused.
 */
export async function lockFolder(folder: string): Promise<DiskLock> {
  const fd = openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  // The address of a Unix socket holds 107 bytes; through the descriptor any folder fits.
  const base = `/proc/self/fd/${fd}`;
  const name = `lock-${process.pid}-${randomBytes(8).toString('hex')}`;
  let server: Server | undefined;
  const release = async (): Promise<void> => {
    // Closing also removes the socket's name, by way of the descriptor.
    if (server !== undefined) await closed(server);
    closeSync(fd);
  };
  try {
    server = await listening(join(base, name));
    const holder = await otherHolder(base, name);
    if (holder !== undefined) throw lockedError(folder, holder);
    // Somebody who came before us and has gone since may have taken our name for a leftover, before we listened.
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
    `${folder} is in use by another process (pid ${pid}); stop it, or give this one a folder of its own`,
    { code: 'locked', path: folder },
  );
}

function listening(path: string): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => socket.destroy());
    server.on('error', reject);
    server.listen(path, () => resolve(server));
    // The lock alone is no reason for the process to live on.
    server.unref();
  });
}

function closed(server: Server): Promise<void> {
  return new Promise((resolve) => server.close(() => resolve()));
}

/** Name of another socket in the folder that somebody listens on; removes those of holders that are gone. */
async function otherHolder(base: string, own: string): Promise<string | undefined> {
  const others = readdirSync(base).filter((name) => LOCK_NAME.test(name) && name !== own);
  if (others.length > LEFTOVERS_MAX) {
    throw new Error(`it holds ${others.length} lock sockets, more than ${LEFTOVERS_MAX}`);
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
    // Gone meanwhile is as good.
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
  }
}

/** Whether a process listens there. Only a refusal says no; a full backlog (EAGAIN) is somebody alive. */
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
