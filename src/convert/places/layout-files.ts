import { join } from 'node:path';
import { readPart, type ByteRange, type ByteSource } from '../../image/byte-source.ts';
import { ConvertError } from '../errors.ts';
import { LocalFile } from '../files.ts';

/** A file that is open; its reader closes it. */
export interface OpenFile extends ByteSource {
  close(): Promise<void>;
}

/** The files of an image, by their path in it: a folder, or an archive. */
export interface ImageFiles {
  /** Path of all of it. */
  readonly path: string;
  /** Undefined when there is no such file. Throws ConvertError. */
  open(path: string): Promise<OpenFile | undefined>;
}

/** Bytes read from a file at a time. */
const PIECE_BYTES = 1024 * 1024;

/** The files of a folder. */
export class FolderFiles implements ImageFiles {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
  }

  async open(path: string): Promise<OpenFile | undefined> {
    try {
      return await LocalFile.open(join(this.path, path), 'read');
    } catch (error) {
      if (error instanceof ConvertError && isMissing(error.cause)) return undefined;
      throw error;
    }
  }
}

/** The whole of a small file; undefined when there is none. Throws ConvertError. */
export async function readSmall(
  files: ImageFiles,
  path: string,
  sizeBytesMax: number,
): Promise<Uint8Array | undefined> {
  const file = await files.open(path);
  if (file === undefined) return undefined;
  try {
    if (file.sizeBytes <= sizeBytesMax) return await file.read(0, file.sizeBytes);
  } finally {
    await file.close();
  }
  const what = `${path} in ${files.path} is larger than ${sizeBytesMax} bytes`;
  throw new ConvertError(what, { code: 'too-large', value: sizeBytesMax });
}

/** The bytes of a file, which is closed at the end. */
export async function* piecesOf(file: OpenFile, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  try {
    for (let offset = 0; offset < file.sizeBytes; ) {
      signal.throwIfAborted();
      const piece = await file.read(offset, Math.min(PIECE_BYTES, file.sizeBytes - offset));
      if (piece.length === 0) return;
      yield piece;
      offset += piece.length;
    }
  } finally {
    await file.close();
  }
}

/** A part of a file, which is closed then. `name` stands in errors. Throws ImageError. */
export async function partOf(
  file: OpenFile,
  { offset, length }: ByteRange,
  name: string,
): Promise<Uint8Array> {
  try {
    return await readPart(file, offset, length, name);
  } finally {
    await file.close();
  }
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT';
}
