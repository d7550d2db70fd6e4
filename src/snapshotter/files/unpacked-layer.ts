import { constants } from 'node:fs';
import { lstat, open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { isLsmt } from '../../image/lsmt-header.ts';
import { isTrace } from '../../image/trace.ts';
import { isZFile } from '../../image/zfile-header.ts';
import type { UnpackedLayer } from '../catalog/new-layer.ts';

/** The file of an unpacked block layer, as overlaybd names it. */
export const BLOCK_FILE = 'overlaybd.commit';

/** What is in an unpacked acceleration layer. */
const TRACE_FILE = 'trace';
const TRACE_FOLDER = 'block-digests';

/**
 * The maker of an image chooses what stands under a name. A link would lead to files of others, and
 * opening a named pipe would wait forever. Nothing is opened that is no plain file: to open a
 * device alone may do something.
 */
const OPEN_FLAGS = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

/**
 * Tells a layer of a block image by its content: a client that does not say where an image is from
 * does not pass its labels on either.
 */
export async function unpackedLayer(folder: string): Promise<UnpackedLayer> {
  const names = (await readdir(folder)).sort();
  if (names.length === 1 && names[0] === BLOCK_FILE) {
    const { start, sizeBytes } = await startOf(join(folder, BLOCK_FILE));
    if (isZFile(start) || isLsmt(start)) return { kind: 'block', sizeBytes };
  }
  const isTraceLike = names.every((name) => name === TRACE_FILE || name === TRACE_FOLDER);
  if (isTraceLike && names.includes(TRACE_FILE)) {
    const { start } = await startOf(join(folder, TRACE_FILE));
    if (isTrace(start)) return { kind: 'trace' };
  }
  return { kind: 'files' };
}

/** First bytes of a file, and its size; nothing of what is no file. */
async function startOf(path: string): Promise<{ start: Uint8Array; sizeBytes: number }> {
  const start = new Uint8Array(24);
  if (!(await lstat(path)).isFile()) return { start: start.subarray(0, 0), sizeBytes: 0 };
  const file = await open(path, OPEN_FLAGS);
  try {
    const facts = await file.stat();
    if (!facts.isFile()) return { start: start.subarray(0, 0), sizeBytes: 0 };
    const { bytesRead } = await file.read(start, 0, start.length, 0);
    return { start: start.subarray(0, bytesRead), sizeBytes: facts.size };
  } finally {
    await file.close();
  }
}
