import { existsSync, mkdirSync, rmdirSync, writeFileSync } from 'node:fs';
import { MNT_DETACH, MNT_FORCE, mount, unmount } from '../linux.ts';
import { readMountTable } from '../mount-table.ts';

/** Where the kernel shows FUSE connections, if fusectl is mounted as usual. */
const FUSECTL_DIR = '/sys/fs/fuse/connections';

/** The number of the connection behind the FUSE mount at a path; undefined without one. */
export function connectionAt(path: string): number | undefined {
  const entry = readMountTable().findLast(({ mountPoint }) => mountPoint === path);
  return entry === undefined ? undefined : Number(entry.device.split(':')[1]);
}

/**
 * Ends a FUSE connection: all its requests fail, now and later, and its server's read of them ends.
 * By its mount; where that is gone from this mount namespace while others still use the
 * filesystem, by fusectl, which is mounted beside `path` for a moment where the host has it
 * nowhere. Waits for nobody. False when this process cannot end it.
 */
export function abortConnection(path: string, connection: number | undefined): boolean {
  if (connection === undefined) return false;
  if (connectionAt(path) === connection) {
    unmount(path, MNT_FORCE); // Busy or not, it ends the connection first.
    return true;
  }
  if (existsSync(`${FUSECTL_DIR}/${connection}`)) return abortBy(FUSECTL_DIR, connection);
  const dir = `${path}.abort`;
  try {
    mkdirSync(dir);
  } catch {
    return false;
  }
  try {
    const failure = mount({ source: 'none', target: dir }, 'fusectl', { flags: 0, data: '' });
    if (failure !== undefined) return false;
    const isEnded = abortBy(dir, connection);
    unmount(dir, MNT_DETACH);
    return isEnded;
  } finally {
    rmdirSync(dir);
  }
}

/** Whether the connection is no more. */
function abortBy(fusectlDir: string, connection: number): boolean {
  const file = `${fusectlDir}/${connection}/abort`;
  try {
    writeFileSync(file, '1');
    return true;
  } catch {
    return !existsSync(file);
  }
}

const atExit = new Set<() => boolean>();
let isKept = false;

/**
 * From here on this process leaves its connections to the next one when it exits, whatever the
 * reason: it is killed then. For a process whose keeper has them too.
 */
export function leaveAtExit(): void {
  isKept = true;
}

/**
 * Has the process end a connection when it exits: Node waits for the thread that reads its
 * requests, whatever exit() says. A process that cannot end one is killed. Gives a function that
 * ends the watch.
 */
export function abortAtExit(abort: () => boolean): () => void {
  if (atExit.size === 0) process.on('exit', onExit);
  atExit.add(abort);
  return () => {
    atExit.delete(abort);
    if (atExit.size === 0) process.off('exit', onExit);
  };
}

function onExit(): void {
  const areLeft = isKept || [...atExit].map((abort) => abort()).includes(false);
  if (areLeft) process.kill(process.pid, 'SIGKILL');
}
