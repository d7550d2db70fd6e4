/**
 * A process that mounts a layer whose blocks a store holds: `held-child.ts STATE LAYER DIR STORE`.
 * After the mount it reads no blob any more, says `mounted`, and its event loop stands still until
 * it is sent a byte. Then it says `free`, and stops on SIGTERM.
 */
import { readFileSync, readSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { DeviceService } from '../../../src/device/device-service.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { silentMetrics } from '../../../src/runtime/metrics.ts';
import { SystemClock } from '../../../src/runtime/node/clock.ts';
import { NodeCodec } from '../../../src/runtime/node/codec.ts';
import { imageOf, MemoryReader } from './images.ts';

const [stateDir = '', layer = '', dir = '', storeDir = ''] = process.argv.slice(2);
const reader = new MemoryReader();
const image = imageOf([reader.add(new Uint8Array(readFileSync(layer)))]);
const service = new DeviceService(
  {
    reader,
    codec: new NodeCodec(),
    clock: new SystemClock(),
    logger: silentLogger,
    metrics: silentMetrics,
  },
  {
    stateDir,
    mountFolders: [dirname(dir)],
    store: { dir: storeDir, untrustedSigners: [], digestsOf: () => undefined },
  },
);
await service.start();
process.on('SIGTERM', () => void service.stop().then(() => process.exit(0)));
await service.mount(image, dir);
reader.gate = () => new Promise(() => {});
writeSync(1, 'mounted\n');
readSync(0, new Uint8Array(1));
writeSync(1, 'free\n');
setInterval(() => {}, 1_000); // Serving a mount alone keeps no process alive.
