import { execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { expect, onTestFinished, test, vi } from 'vitest';
import { askAgent } from '../../src/agent/admin/admin-client.ts';
import { AgentCluster } from '../../src/demo/agent-cluster.ts';
import { waitReady } from '../../src/demo/processes.ts';
import { defined } from '../../src/util/assert.ts';
import { NO_TRACES, tracesOf } from '../device/kit/images.ts';
import { makeBusyboxImage } from '../kit/block-image.ts';
import { startDeviceProcess } from '../kit/device-process.ts';
import { sampleBytes } from '../kit/layers.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { startDockerRegistry } from '../kit/docker-registry.ts';
import { tempFolder } from '../kit/temp-folder.ts';

const run = promisify(execFile);

/** A root, a child, and a device process beside the child; an image in a real registry. */
async function startHost() {
  const registry = await startDockerRegistry();
  const folder = tempFolder();
  const data = { big: sampleBytes(5 * 1024 * 1024 + 123, 7), small: sampleBytes(100, 8) };
  const layout = await makeBusyboxImage(folder, data);
  const copy = ['--insecure-policy', 'copy', '--preserve-digests', '--dest-tls-verify=false'];
  await run('skopeo', [...copy, `oci:${layout}:block`, `docker://${registry}/app:1`]);
  const cluster = new AgentCluster({
    ...{ dir: tempFolder(), roots: 1, children: 1, devices: false, registry },
  });
  onTestFinished(() => cluster.stop());
  await cluster.start();
  const [host] = cluster.children;
  const child = defined(host, 'a child');
  // Runs after the end of the device process, which is told later.
  onTestFinished(() => {
    expect(tracesOf(dirname(child.storeDir))).toEqual(NO_TRACES);
  });
  const device = await startDeviceProcess(child);
  const image = `docker://${registry}/app:1`;
  const dir = child.mountDir;
  const files = join(folder, 'files', 'data');
  return { cluster, child, device, image, dir, files };
}

/** Reads a file past all caches until it is told to end; the distinct results. */
function readOnAndOn(path: string) {
  const script =
    'while [ ! -e "$2" ]; do dd if="$1" iflag=direct bs=64k status=none 2>&1 | sha256sum; ' +
    'done | sort | uniq -c';
  const stop = join(tempFolder(), 'stop');
  const child = spawn('sh', ['-c', script, 'sh', path, stop], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const text: Buffer[] = [];
  child.stdout.on('data', (data: Buffer) => text.push(data));
  const closed = new Promise((resolve) => child.on('close', resolve));
  return async (): Promise<readonly string[]> => {
    writeFileSync(stop, '');
    await closed;
    const lines = Buffer.concat(text).toString().trim().split('\n');
    return lines.map((line) => line.trim().split(/\s+/)[1] ?? '');
  };
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
      expect(await end()).toEqual([sha256(join(files, 'big'))]);
      await run('diff', ['-r', files, join(dir, 'data')]);
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
