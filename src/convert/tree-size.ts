import type { Dirent } from 'node:fs';
import { lstat, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { ceilTo } from '../image/binary.ts';
import { ConvertError } from './errors.ts';
import { failing } from './files.ts';

/** Most files and directories of a converted image. */
const ENTRY_COUNT_MAX = 2 ** 21;

const BLOCK_BYTES = 4096;

/** Longest target of a symbolic link that its inode holds (ext4: 60 bytes with the NUL). */
const SYMLINK_INLINE_BYTES = 59;

/** Bytes of a directory entry without the name, rounded up. */
const DIRENT_BYTES = 12;

/** Space that a directory tree needs in a file system with blocks of 4 KiB. */
export interface TreeSize {
  /** Number of files, directories and other entries; hard links count once. */
  readonly inodeCount: number;
  /** Bytes of content in whole blocks; holes count as data. */
  readonly dataBytes: number;
}

/** Measures a directory tree; follows no links. Throws ConvertError, or the signal's reason. */
export async function measureTree(
  root: string,
  signal: AbortSignal | undefined,
): Promise<TreeSize> {
  let [inodeCount, dataBytes] = [1, 0];
  const linked = new Set<string>();
  const folders = [root];
  for (let folder = folders.pop(); folder !== undefined; folder = folders.pop()) {
    signal?.throwIfAborted();
    const path = folder;
    const entries = await failing(path, 'list', () => readdir(path, { withFileTypes: true }));
    dataBytes += directoryBytes(entries);
    for (const entry of entries) {
      const child = join(path, entry.name);
      if (entry.isDirectory()) folders.push(child);
      const stat = await failing(child, 'examine', () => lstat(child));
      if (stat.nlink > 1 && !entry.isDirectory()) {
        const name = `${stat.dev}:${stat.ino}`;
        if (linked.has(name)) continue;
        linked.add(name);
      }
      if (++inodeCount > ENTRY_COUNT_MAX) throw tooMany(root);
      const inline = entry.isSymbolicLink() && stat.size <= SYMLINK_INLINE_BYTES;
      const hasData = entry.isFile() || (entry.isSymbolicLink() && !inline);
      if (hasData) dataBytes += ceilTo(stat.size, BLOCK_BYTES);
    }
  }
  return { inodeCount, dataBytes };
}

function directoryBytes(entries: readonly Dirent[]): number {
  const names = entries.reduce((sum, entry) => sum + Buffer.byteLength(entry.name), 0);
  // Leaves of a hashed directory are three quarters full on average.
  return ceilTo(((names + entries.length * DIRENT_BYTES) * 4) / 3 + BLOCK_BYTES, BLOCK_BYTES);
}

function tooMany(root: string): ConvertError {
  return new ConvertError(
    `${root} has more than ${ENTRY_COUNT_MAX} files; split it into several images`,
    {
      code: 'too-large',
      value: ENTRY_COUNT_MAX,
    },
  );
}
