import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import type { ReadOnlyDisk } from '../../../src/device/disk.ts';
import { deviceMetrics } from '../../../src/device/metrics.ts';
import { NbdServer } from '../../../src/device/nbd/nbd-server.ts';
import { silentLogger } from '../../../src/runtime/logger.ts';
import { silentMetrics } from '../../../src/runtime/metrics.ts';
import { SystemClock } from '../../../src/runtime/node/clock.ts';
import { tempFolder, type AtEnd } from '../../kit/temp-folder.ts';

/** A server of these disks by name, until the end of the test if nothing else is said. */
export async function serveNbd(
  disks: Readonly<Record<string, ReadOnlyDisk>>,
  atEnd: AtEnd = onTestFinished,
): Promise<{ server: NbdServer; path: string; uri: (name?: string) => string }> {
  const server = nbdServer();
  for (const [name, disk] of Object.entries(disks)) server.export(name, disk);
  const path = join(tempFolder(atEnd), 'nbd.sock');
  await server.listen(path);
  atEnd(() => server.close());
  return { server, path, uri: (name = '') => `nbd+unix:///${name}?socket=${path}` };
}

/** A server that does not listen yet. */
export function nbdServer(): NbdServer {
  const metrics = deviceMetrics(silentMetrics);
  return new NbdServer({ clock: new SystemClock(), logger: silentLogger, metrics });
}
