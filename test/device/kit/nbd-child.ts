/** A process that serves a file over NBD on its descriptor 3 until it is killed. */
import { readFileSync } from 'node:fs';
import { memoryDisk } from '../../../src/device/disk.ts';
import { deviceMetrics } from '../../../src/device/metrics.ts';
import { NbdServer } from '../../../src/device/nbd/nbd-server.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { silentMetrics } from '../../../src/runtime/metrics.ts';
import { SystemClock } from '../../../src/runtime/node/clock.ts';

const [file = ''] = process.argv.slice(2);
const metrics = deviceMetrics(silentMetrics);
const server = new NbdServer({ clock: new SystemClock(), logger: silentLogger, metrics });
server.export('', memoryDisk(readFileSync(file)));
await server.listen(3);
