/**
 * A process that mounts a layer and serves it until it is killed: `serve-child.ts STATE LAYER DIR
 * [BACKEND]`.
 * It prints `mounted` after the mount. SIGTERM stops it; SIGUSR2 makes it exit without a stop.
 */
import { readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { BackendKind } from '../../../src/device/backends.ts';
import { DeviceService } from '../../../src/device/device-service.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { silentMetrics } from '../../../src/runtime/metrics.ts';
import { SystemClock } from '../../../src/runtime/node/clock.ts';
import { NodeCodec } from '../../../src/runtime/node/codec.ts';
import { imageOf, MemoryReader } from './images.ts';

const [stateDir = '', layer = '', dir = '', backend = 'loop'] = process.argv.slice(2);
const reader = new MemoryReader();
const image = imageOf([reader.add(readFileSync(layer))]);
const service = new DeviceService(
  {
    reader,
    codec: new NodeCodec(),
    clock: new SystemClock(),
    logger: silentLogger,
    metrics: silentMetrics,
  },
  { stateDir, mountFolders: [dirname(dir)], backend: backend as BackendKind },
);
await service.start();
process.on('SIGUSR2', () => process.exit(3));
process.on('SIGTERM', () => void service.stop().then(() => process.exit(0)));
// From now on no read is answered, so that the kill happens during reads.
await service.mount(image, dir);
reader.gate = () => new Promise(() => {});
process.stdout.write('mounted\n');
