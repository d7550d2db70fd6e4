/**
 * In the machine: a device process. `serve.ts FILE IDENTIFIER DEAD_SECONDS [INDEX]` serves the file
 * and attaches it as a device, or gives the device of that index a new connection. It prints the
 * index when the kernel has it, and serves until it is killed. Each read takes a moment, so that a
 * kill meets some.
 */
import { readFileSync } from 'node:fs';
import { memoryDisk, type ReadOnlyDisk } from '../../src/device/disk.ts';
import { deviceMetrics } from '../../src/device/metrics.ts';
import { attachKernelNbd, reattachKernelNbd } from '../../src/device/nbd/kernel.ts';
import { NbdServer } from '../../src/device/nbd/nbd-server.ts';
import { silentLogger } from '../../src/runtime/logger.ts';
import { silentMetrics } from '../../src/runtime/metrics.ts';
import { SystemClock } from '../../src/runtime/node/clock.ts';

const READ_MS = 5;

const [file = '', identifier = '', deadSeconds = '0', index] = process.argv.slice(2);
const clock = new SystemClock();
const memory = memoryDisk(readFileSync(file));
const disk: ReadOnlyDisk = {
  sizeBytes: memory.sizeBytes,
  readSync: () => false,
  read: async (target, offset) => {
    await new Promise((resolve) => setTimeout(resolve, READ_MS));
    memory.readSync(target, offset);
  },
};
const metrics = deviceMetrics(silentMetrics);
const server = new NbdServer({ clock, logger: silentLogger, metrics });
server.export('image', disk);
const serve = (fd: number): void => void server.adopt(fd, 'image');
if (index === undefined) {
  const deadConnectionSeconds = Number(deadSeconds);
  const init = { identifier, sizeBytes: disk.sizeBytes, deadConnectionSeconds };
  const device = attachKernelNbd(serve, init);
  console.log(device.index);
} else {
  const device = { index: Number(index), identifier };
  await reattachKernelNbd({ serve, clock }, device);
  console.log(device.index);
}
