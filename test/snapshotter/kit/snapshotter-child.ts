/**
 * A process that serves snapshots until it is killed: `snapshotter-child.ts FOLDER`. It prints
 * `ready` once it does.
 */
import { join } from 'node:path';
import { MemoryDevices } from './memory-devices.ts';
import { startSnapshotter } from './served-snapshotter.ts';

const [folder = ''] = process.argv.slice(2);
const ends: (() => unknown)[] = [];
const devices = new MemoryDevices(join(folder, 'devices'));
await startSnapshotter({ folder, devices, atEnd: (end) => ends.push(end) });
process.on('SIGTERM', () => void Promise.all(ends.map((end) => end())));
process.stdout.write('ready\n');
