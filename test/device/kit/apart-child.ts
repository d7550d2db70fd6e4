/**
 * A process in a mount namespace of its own, as it was given it, or without the mounts of images:
 * `apart-child.ts keep|drop`. It prints `ready` then, and ends with its input.
 */
import { dropInheritedMounts } from '../../../src/device/mount/inherited-mounts.ts';

if (process.argv[2] === 'drop') dropInheritedMounts();
process.stdout.write('ready\n');
process.stdin.resume();
