/**
 * A kept process that mounts a layer and serves it: `kept-child.ts STATE LAYER DIR BACKEND`. A new
 * one goes on with the mount of the last. Each says in STATE/pids that it is ready, and stops on
 * SIGTERM.
 */
import { appendFileSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { BackendKind } from '../../../src/device/backends.ts';
import { DeviceService } from '../../../src/device/device-service.ts';
import { KeptDescriptors } from '../../../src/device/keeper/kept-descriptors.ts';
import { dieWithParent } from '../../../src/device/linux.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { silentMetrics } from '../../../src/runtime/metrics.ts';
import { NodeCodec } from '../../../src/runtime/node/codec.ts';
import { PatientClock } from '../../kit/patient-clock.ts';
import { imageOf, MemoryReader } from './images.ts';

dieWithParent();
const [stateDir = '', layer = '', dir = '', backend = 'loop'] = process.argv.slice(2);
const reader = new MemoryReader();
const image = imageOf([reader.add(readFileSync(layer))]);
const clock = new PatientClock();
const end = (): void => void process.kill(process.pid, 'SIGKILL');
const keeper = KeptDescriptors.ofThisProcess({ clock }, { onYield: end });
if (keeper === undefined) throw new Error('this process has no keeper');
const service = new DeviceService(
  { reader, codec: new NodeCodec(), clock, logger: silentLogger, metrics: silentMetrics, keeper },
  { stateDir, mountFolders: [dirname(dir)], backend: backend as BackendKind },
);
await service.start();
process.on('SIGTERM', () => void service.stop().then(() => process.exit(0)));
if (service.list().length === 0) await service.mount(image, dir);
keeper.ready();
appendFileSync(`${stateDir}/pids`, `${process.pid}\n`);
setInterval(() => {}, 1_000); // Serving a mount alone keeps no process alive.
