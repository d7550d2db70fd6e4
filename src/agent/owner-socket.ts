import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  statSync,
  unlinkSync,
  type Stats,
} from 'node:fs';
import type { Server } from 'node:net';
import { dirname } from 'node:path';
import { makeFolders } from '../runtime/node/folders.ts';
import { ListenError } from '../edge/http/listen.ts';
import type { DiskLock } from '../runtime/disk.ts';
import { lockFolder } from '../runtime/node/disk-lock.ts';
import { CodedError, errorText } from '../util/errors.ts';

/** Permissions for the agent's own user alone, and with a group. */
const MODES = { alone: { folder: 0o700, socket: 0o600 }, group: { folder: 0o750, socket: 0o660 } };

/** What the agent's folder never lets others do: write as its group, or anything as other users. */
const MODE_OF_OTHERS = 0o027;

/** Why a place is not one for the socket. The message completes "cannot listen on PATH (KEY): ". */
class PlaceError extends CodedError<{ readonly code: 'place' }> {}

/** Where a socket is. */
export interface SocketPlace {
  /** Absolute; a Unix socket's path has at most 107 bytes. */
  readonly path: string;
  /** The key of the configuration that chose it. */
  readonly key: string;
  /** A group that may use it too. */
  readonly group?: number;
  /** Another socket of this agent has taken the folder, and outlives this one. */
  readonly isFolderTaken?: boolean;
}

/**
 * A Unix socket that a server listens on: who may open it is the file system's word, so it stands
 * in a folder that others cannot enter.
 *
 * Life: constructed -> `open()` (rejects with ListenError) -> `close()`, once the server has
 * closed.
 */
export class OwnerSocket {
  readonly #place: SocketPlace;
  #lock: DiskLock | undefined;

  constructor(place: SocketPlace) {
    this.#place = place;
  }

  /**
   * Takes the folder, so that no two agents have one socket, replaces what a dead agent left, and
   * has the server listen.
   */
  async open(server: Server): Promise<void> {
    const { path, key } = this.#place;
    const modes = this.#place.group === undefined ? MODES.alone : MODES.group;
    try {
      if (this.#place.isFolderTaken !== true) {
        this.#takeFolder(dirname(path), modes.folder);
        this.#lock = await lockFolder(dirname(path));
      }
      removeLeftover(path);
      server.listen(path);
      await once(server, 'listening');
      this.#give(path, modes.socket);
    } catch (cause) {
      await this.close();
      throw new ListenError(
        `cannot listen on ${path} (${key}): ${reasonOf(cause)}; name another path, or \`none\``,
        { code: 'listen', key },
        { cause },
      );
    }
  }

  /** The server removes the socket when it closes; after that another agent may have the folder. */
  async close(): Promise<void> {
    await this.#lock?.release();
    this.#lock = undefined;
  }

  #takeFolder(folder: string, mode: number): void {
    makeFolders(dirname(folder));
    const isNew = mkdirIfMissing(folder);
    const found = statSync(folder);
    if (!isNew && !isClosed(found)) {
      throw new PlaceError(
        `its folder ${folder} is open to others or not the agent's own: the socket needs one ` +
          'of mode 0700',
        { code: 'place' },
      );
    }
    this.#give(folder, mode);
  }

  #give(path: string, mode: number): void {
    if (this.#place.group !== undefined) chownSync(path, -1, this.#place.group);
    chmodSync(path, mode);
  }
}

/** Whether it was missing. */
function mkdirIfMissing(folder: string): boolean {
  try {
    mkdirSync(folder, { mode: MODES.alone.folder });
    return true;
  } catch (error) {
    if (codeOf(error) !== 'EEXIST') throw error;
    return false;
  }
}

/** A folder that is somebody else's, or that others use, is left as it is. */
function isClosed({ mode, uid }: Stats): boolean {
  return uid === process.geteuid?.() && (mode & MODE_OF_OTHERS) === 0;
}

function removeLeftover(path: string): void {
  try {
    if (!lstatSync(path).isSocket()) {
      throw new PlaceError('something else than a socket is there', { code: 'place' });
    }
    unlinkSync(path);
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error;
  }
}

function reasonOf(error: unknown): string {
  const code = codeOf(error);
  if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS') {
    return `this user may not make it (${code})`;
  }
  return errorText(error);
}

function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException).code;
}
