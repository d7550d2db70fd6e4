import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test, vi } from 'vitest';
import { askAgent } from '../../src/agent/admin/admin-client.ts';
import { waitReady } from '../../src/demo/processes.ts';
import { readOnAndOn } from '../device/kit/read-on.ts';
import { makeBusyboxImage } from '../kit/block-image.ts';
import { startDeviceHost } from '../kit/device-host.ts';
import { startDeviceProcess } from '../kit/device-process.ts';
import { sampleBytes } from '../kit/layers.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { startDockerRegistry } from '../kit/docker-registry.ts';
import { pushLayout } from '../kit/skopeo.ts';
import { tempFolder } from '../kit/temp-folder.ts';

const run = promisify(execFile);
const BIN = new URL('../../bin/xylem.js', import.meta.url).pathname;
const WAIT = { timeout: 20_000, interval: 50 };

/** A root, a child, and a device process beside the child; an image in a real registry. */
async function startHost() {
  const registry = await startDockerRegistry();
  const folder = tempFolder();
  const data = { big: sampleBytes(5 * 1024 * 1024 + 123, 7), small: sampleBytes(100, 8) };
  const layout = await makeBusyboxImage(folder, data);
  await pushLayout(`${layout}:block`, `${registry}/app:1`);
  const { cluster, host, device } = await startDeviceHost(registry);
  const image = `docker://${registry}/app:1`;
  const files = join(folder, 'files', 'data');
  return { cluster, child: host, device, image, dir: host.mountDir, files };
}

const sha256 = (path: string): string =>
  createHash('sha256').update(readFileSync(path)).digest('hex');

describeWith(
  'xylem device',
  [needs.root, needs.fuse, needs.program('skopeo'), needs.program('docker-registry')],
  () => {
    test('mounts an image through the agent, and unmounts it', async () => {
      const { device, image, dir, files } = await startHost();
      const place = { admin: device.socket };
      const mounted = await askAgent(place, 'mount', { image, dir });
      expect(mounted).toMatchObject({ image, dir });
      await run('diff', ['-r', files, join(dir, 'data')]);
      expect((await askAgent(place, 'mounts')).mounts).toHaveLength(1);
      expect(await askAgent(place, 'devices')).toEqual({ devices: [] });
      const { stdout } = await run(process.execPath, [BIN, 'device', 'ls', '--admin', place.admin]);
      expect(stdout).toContain(`at ${dir} (${mounted.device}, `);
      await askAgent(place, 'unmount', { dir });
      expect(existsSync(dir)).toBe(false);
    });

    test('kills of the agent and of the serving process fail no read', async () => {
      const { cluster, child, device, image, dir, files } = await startHost();
      await askAgent({ admin: device.socket }, 'mount', { image, dir });
      const end = readOnAndOn(join(dir, 'data', 'big'));
      for (let i = 0; i < 3; i++) {
        child.process.signal('SIGKILL');
        await device.killServing();
        await cluster.restart(child);
        await waitReady(child.process);
      }
      const sums = (await end()).map(({ sum }) => sum);
      expect(sums).toEqual([sha256(join(files, 'big'))]);
      await run('diff', ['-r', files, join(dir, 'data')]);
    });

    test('a start that fails ends no device that is in use', async () => {
      const { device, image, dir, files } = await startHost();
      await askAgent({ admin: device.socket }, 'mount', { image, dir });
      const end = readOnAndOn(join(dir, 'data', 'big'));
      const pid = device.servingPid();
      process.kill(pid, 'SIGKILL');
      // In the way of what the next processes start last.
      const inTheWay = createServer();
      const port = Number(new URL(device.admin).port);
      await vi.waitFor(async () => {
        inTheWay.listen(port, '127.0.0.1');
        await once(inTheWay, 'listening');
      });
      const failed = 'leaving its devices to the next one';
      await vi.waitFor(() => expect(readFileSync(device.logFile, 'utf8')).toContain(failed), WAIT);
      inTheWay.close();
      await waitReady({ name: 'device', admin: device.admin, logFile: device.logFile });
      expect((await end()).map(({ sum }) => sum)).toEqual([sha256(join(files, 'big'))]);
    });

    test('a keeper that dies leaves what the next start clears', async () => {
      const { child, device, image, dir, files } = await startHost();
      await askAgent({ admin: device.socket }, 'mount', { image, dir });
      device.keeper.kill('SIGKILL');
      await vi.waitFor(() => expect(device.servingPid()).toBe(0));
      const next = await startDeviceProcess(child);
      expect((await askAgent({ admin: next.socket }, 'mounts')).mounts).toEqual([]);
      await askAgent({ admin: next.socket }, 'mount', { image, dir });
      await run('diff', ['-r', files, join(dir, 'data')]);
      await next.stop();
      expect(readdirSync(join(next.stateDir, 'mounts'))).toEqual([]);
    });
  },
);
