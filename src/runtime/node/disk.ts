import {
  close,
  fdatasync,
  fsync,
  ftruncate,
  open,
  read,
  readdir,
  rename,
  rm,
  statfs,
  write,
  constants,
} from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { errorText } from '../../util/errors.ts';
import {
  DiskError,
  type Disk,
  type DiskEntry,
  type DiskErrorDetail,
  type DiskFile,
  type DiskLock,
  type OpenMode,
} from '../disk.ts';
import { lockFolder } from './disk-lock.ts';
import { makeFoldersSoon } from './folders.ts';

/** Access for this user alone: the content may be private. */
const FOLDER_MODE = 0o700;
const FILE_MODE = 0o600;

const CODES: Readonly<Record<string, DiskErrorDetail['code']>> = {
  ENOENT: 'not-found',
  EEXIST: 'exists',
  ENOSPC: 'no-space',
  EDQUOT: 'no-space',
  EROFS: 'read-only',
  EACCES: 'denied',
  EPERM: 'denied',
  EMFILE: 'too-many-files',
  ENFILE: 'too-many-files',
};

const fsp = {
  // Plain descriptors and callbacks: a FileHandle costs a third more per call at 256 KiB and brings
  // nothing needed here.
  close: promisify(close),
  fdatasync: promisify(fdatasync),
  fsync: promisify(fsync),
  ftruncate: promisify(ftruncate),
  open: promisify(open),
  readdir: promisify(readdir),
  rename: promisify(rename),
  rm: promisify(rm),
  statfs: promisify(statfs),
};

/** Runs the action; turns its failure into a DiskError that says what could not be done. */
async function attempt<T>(what: string, path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (cause) {
    throw diskError(what, path, cause);
  }
}

function diskError(what: string, path: string, cause: unknown): DiskError {
  if (cause instanceof DiskError) return cause;
  const errno = cause instanceof Error && 'code' in cause ? String(cause.code) : '';
  const text = `cannot ${what} ${path}: ${errorText(cause)}`;
  return new DiskError(text, { code: CODES[errno] ?? 'io', path }, { cause });
}

class NodeDiskFile implements DiskFile {
  readonly #fd: number;
  readonly #path: string;

  constructor(fd: number, path: string) {
    this.#fd = fd;
    this.#path = path;
  }

  read(target: Uint8Array, offset: number): Promise<number> {
    return new Promise((resolve, reject) => {
      read(this.#fd, target, 0, target.length, offset, (error, count) => {
        if (error === null) resolve(count);
        else reject(diskError(`read ${target.length} bytes at ${offset} of`, this.#path, error));
      });
    });
  }

  async write(source: Uint8Array, offset: number): Promise<void> {
    for (let done = 0; done < source.length; ) {
      done += await this.#writeSome(done === 0 ? source : source.subarray(done), offset + done);
    }
  }

  truncate(sizeBytes: number): Promise<void> {
    return attempt(`set to ${sizeBytes} bytes`, this.#path, () =>
      fsp.ftruncate(this.#fd, sizeBytes),
    );
  }

  sync(): Promise<void> {
    return attempt('sync', this.#path, () => fsp.fdatasync(this.#fd));
  }

  close(): Promise<void> {
    return attempt('close', this.#path, () => fsp.close(this.#fd));
  }

  #writeSome(source: Uint8Array, offset: number): Promise<number> {
    return new Promise((resolve, reject) => {
      write(this.#fd, source, 0, source.length, offset, (error, count) => {
        if (error === null) resolve(count);
        else reject(diskError(`write ${source.length} bytes at ${offset} of`, this.#path, error));
      });
    });
  }
}

/** A folder of this machine as a Disk. `makeFolder('')` creates the folder itself. */
export class NodeDisk implements Disk {
  readonly #root: string;

  constructor(init: { root: string }) {
    this.#root = init.root;
  }

  async open(path: string, mode: OpenMode): Promise<DiskFile> {
    const full = join(this.#root, path);
    const flags = mode === 'read' ? constants.O_RDONLY : constants.O_RDWR | constants.O_CREAT;
    const fd = await attempt('open', full, () => fsp.open(full, flags, FILE_MODE));
    return new NodeDiskFile(fd, full);
  }

  async makeFolder(path: string): Promise<void> {
    const full = join(this.#root, path);
    await attempt('make the folder', full, () => makeFoldersSoon(full, FOLDER_MODE));
  }

  async list(path: string): Promise<readonly DiskEntry[]> {
    const full = join(this.#root, path);
    const entries = await attempt('list', full, () => fsp.readdir(full, { withFileTypes: true }));
    return entries.map((entry) => ({
      name: entry.name,
      kind: entry.isFile() ? 'file' : entry.isDirectory() ? 'folder' : 'other',
    }));
  }

  rename(from: string, to: string): Promise<void> {
    const full = join(this.#root, from);
    return attempt(`rename to ${to}`, full, () => fsp.rename(full, join(this.#root, to)));
  }

  remove(path: string): Promise<void> {
    const full = join(this.#root, path);
    return attempt('remove', full, () => fsp.rm(full, { recursive: true, force: true }));
  }

  syncFolder(path: string): Promise<void> {
    const full = join(this.#root, path);
    return attempt('sync the folder', full, async () => {
      const fd = await fsp.open(full, constants.O_RDONLY | constants.O_DIRECTORY);
      try {
        await fsp.fsync(fd);
      } finally {
        await fsp.close(fd);
      }
    });
  }

  async freeBytes(): Promise<number> {
    const stats = await attempt('get the free space of', this.#root, () => fsp.statfs(this.#root));
    return stats.bavail * stats.bsize;
  }

  lock(path: string): Promise<DiskLock> {
    const full = join(this.#root, path);
    return attempt('lock', full, () => lockFolder(full));
  }
}
