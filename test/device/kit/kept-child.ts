/**
 * A kept process that mounts a layer and serves it: `kept-child.ts STATE LAYER DIR`. A new one goes
 * on with the mount of the last. Each says in STATE/pids that it is ready, and stops on SIGTERM.
 */
import { appendFileSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { DeviceService } from '../../../src/device/device-service.ts';
import { KeptDescriptors } from '../../../src/device/keeper/kept-descriptors.ts';
import { dieWithParent } from '../../../src/device/linux.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { silentMetrics } from '../../../src/runtime/metrics.ts';
import { SystemClock } from '../../../src/runtime/node/clock.ts';
import { NodeCodec } from '../../../src/runtime/node/codec.ts';
import { imageOf, MemoryReader } from './images.ts';

dieWithParent();
const [stateDir = '', layer = '', dir = ''] = process.argv.slice(2);
const reader = new MemoryReader();
const image = imageOf([reader.add(readFileSync(layer))]);
const clock = new SystemClock();
const end = (): void => void process.kill(process.pid, 'SIGKILL');
const keeper = KeptDescriptors.ofThisProcess({ clock }, { onYield: end });
if (keeper === undefined) throw new Error('this process has no keeper');
const service = new DeviceService(
  { reader, codec: new NodeCodec(), clock, logger: silentLogger, metrics: silentMetrics, keeper },
  { stateDir, mountFolders: [dirname(dir)] },
);
await service.start();
process.on('SIGTERM', () => void service.stop().then(() => process.exit(0)));
if (service.list().length === 0) await service.mount(image, dir);
keeper.ready();
appendFileSync(`${stateDir}/pids`, `${process.pid}\n`);
setInterval(() => {}, 1_000); // Serving a mount alone keeps no process alive.
