import { readlinkSync } from 'node:fs';
import { IMAGE_FILE } from '../fuse/fuse-filesystem.ts';
import { MNT_DETACH, unmount } from '../linux.ts';
import { kernelNbdPath, nbdsOfMounts } from '../nbd-devices.ts';
import { loopsByFile } from './loop.ts';
import { readMountTable, type MountEntry } from '../mount-table.ts';

/**
 * Detaches what this process's own mount namespace has of mounted images: a namespace starts with a
 * copy of all mounts, and while it has them, nobody can unmount those images on the host. Does
 * nothing to the mounts of the host. Throws when the namespace is not its own.
 */
export function dropInheritedMounts(): void {
  if (!hasOwnNamespace()) throw new Error('only mounts of a namespace of its own are dropped');
  for (const place of placesOfImages(readMountTable())) unmount(place, MNT_DETACH);
}

/** Where images are mounted, and overlays on them: the upper ones first. */
function placesOfImages(table: readonly MountEntry[]): readonly string[] {
  const folders = table.filter(({ type }) => type === 'fuse.xylem').map((at) => at.mountPoint);
  const files = folders.map((folder) => `${folder}/${IMAGE_FILE}`);
  const nbds = nbdsOfMounts().map(kernelNbdPath);
  const loops = loopsByFile();
  const sources = new Set([...files, ...files.flatMap((file) => loops.get(file) ?? []), ...nbds]);
  const images = table.filter(({ source }) => sources.has(source)).map((at) => at.mountPoint);
  const overlays = table
    .filter(({ type, options }) => type === 'overlay' && images.some((at) => options.includes(at)))
    .map((at) => at.mountPoint);
  return [...overlays, ...images, ...folders];
}

/** Whether the parent has another one; the first process of a pid namespace has no parent. */
function hasOwnNamespace(): boolean {
  if (process.ppid === 0) return true;
  return readlinkSync('/proc/self/ns/mnt') !== readlinkSync(`/proc/${process.ppid}/ns/mnt`);
}
