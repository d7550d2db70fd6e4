import { constants } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import type { ByteSink, ByteSource } from '../image/byte-source.ts';
import { errorText } from '../util/errors.ts';
import { ConvertError } from './errors.ts';

/** Bytes of a file read at a time. */
const PIECE_BYTES = 1024 * 1024;

/** O_NONBLOCK: an open does not wait for the other end of a named pipe, which is then refused. */
const OPEN_FLAGS = {
  read: constants.O_RDONLY | constants.O_NONBLOCK,
  change: 'r+',
  create: 'wx+',
} as const;

/**
 * A local file as a source and a sink of bytes. Errors are ConvertErrors that name the file. The
 * code that opened it closes it.
 */
export class LocalFile implements ByteSource, ByteSink {
  readonly path: string;
  readonly #handle: FileHandle;
  #sizeBytes: number;

  constructor(init: { path: string; handle: FileHandle; sizeBytes: number }) {
    this.path = init.path;
    this.#handle = init.handle;
    this.#sizeBytes = init.sizeBytes;
  }

  /**
   * Opens an existing regular file to read or to change, or creates a new one. Throws ConvertError.
   */
  static async open(path: string, mode: 'read' | 'change' | 'create'): Promise<LocalFile> {
    const flags = OPEN_FLAGS[mode];
    const handle = await failing(path, 'open', () => open(path, flags));
    const stat = await failing(path, 'examine', () => handle.stat());
    if (stat.isFile()) return new LocalFile({ path, handle, sizeBytes: stat.size });
    await handle.close();
    throw new ConvertError(`cannot use ${path}: it is not a regular file`, { code: 'file', path });
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    const bytes = Buffer.allocUnsafe(length);
    let done = 0;
    while (done < length) {
      const from = done;
      const { bytesRead } = await failing(this.path, 'read', () =>
        this.#handle.read(bytes, from, length - from, offset + from),
      );
      if (bytesRead === 0) break;
      done += bytesRead;
    }
    return bytes.subarray(0, done);
  }

  async write(offset: number, bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      const from = done;
      const { bytesWritten } = await failing(this.path, 'write', () =>
        this.#handle.write(bytes, from, bytes.length - from, offset + from),
      );
      done += bytesWritten;
    }
    this.#sizeBytes = Math.max(this.#sizeBytes, offset + bytes.length);
  }

  /** Cuts the file to this size, or extends it with a hole. */
  async truncate(sizeBytes: number): Promise<void> {
    await failing(this.path, 'resize', () => this.#handle.truncate(sizeBytes));
    this.#sizeBytes = sizeBytes;
  }

  async sync(): Promise<void> {
    await failing(this.path, 'write', () => this.#handle.sync());
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }
}

/** Opens a file for the time of `use`, and always closes it afterwards. Throws ConvertError. */
export async function withFile<T>(
  path: string,
  mode: 'read' | 'change' | 'create',
  use: (file: LocalFile) => Promise<T>,
): Promise<T> {
  const file = await LocalFile.open(path, mode);
  try {
    return await use(file);
  } finally {
    await file.close();
  }
}

/** The bytes of a file, in pieces. Throws ConvertError. */
export async function* piecesOfFile(path: string): AsyncGenerator<Uint8Array, void> {
  const file = await LocalFile.open(path, 'read');
  try {
    for (let offset = 0; offset < file.sizeBytes; offset += PIECE_BYTES) {
      yield await file.read(offset, Math.min(PIECE_BYTES, file.sizeBytes - offset));
    }
  } finally {
    await file.close();
  }
}

/** Runs a file operation. Its error becomes a ConvertError: "cannot VERB PATH: reason". */
export async function failing<T>(path: string, verb: string, act: () => Promise<T>): Promise<T> {
  try {
    return await act();
  } catch (cause) {
    throw fileError(path, verb, cause);
  }
}

/** The error for a file operation: "cannot VERB PATH: reason". */
export function fileError(path: string, verb: string, cause: unknown): ConvertError {
  const errno = cause instanceof Error && 'code' in cause ? String(cause.code) : '';
  const code = errno === 'ENOSPC' || errno === 'EDQUOT' ? 'disk-full' : 'file';
  const reason = REASONS[errno] ?? errorText(cause);
  return new ConvertError(`cannot ${verb} ${path}: ${reason}`, { code, path }, { cause });
}

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: 'no such file or directory',
  EACCES: 'permission denied',
  EEXIST: 'it exists already',
  ENOSPC: 'the disk is full; free some space and try again',
  EDQUOT: 'the disk quota is used up; free some space and try again',
  EISDIR: 'it is a directory',
  ENOTDIR: 'a part of the path is not a directory',
  EROFS: 'the file system is read-only',
};
