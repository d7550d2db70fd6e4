/**
 * A process in a mount namespace of its own: `apart-child.ts keep FOLDER` keeps what images are
 * mounted below a folder, and `apart-child.ts drop` none; the mounts of other tests are theirs. It
 * prints `ready` then, and ends with its input.
 */
import { MNT_DETACH, unmount } from '../../../src/device/linux.ts';
import { dropInheritedMounts } from '../../../src/device/mount/inherited-mounts.ts';
import { readMountTable } from '../../../src/device/mount-table.ts';

const [what, folder = ''] = process.argv.slice(2);
if (what === 'drop') dropInheritedMounts();
else {
  for (const { mountPoint, source, type } of readMountTable()) {
    const isOfImage = type === 'fuse.xylem' || type === 'overlay' || source.startsWith('/dev/loop');
    if (isOfImage && !mountPoint.startsWith(folder)) unmount(mountPoint, MNT_DETACH);
  }
}
process.stdout.write('ready\n');
process.stdin.resume();
