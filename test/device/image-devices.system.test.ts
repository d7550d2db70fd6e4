import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it, onTestFinished, vi } from 'vitest';
import { DeviceService } from '../../src/device/device-service.ts';
import { ImageDevices } from '../../src/device/image-devices.ts';
import { LocalLayers } from '../../src/device/local-layers.ts';
import { silentLogger } from '../../src/runtime/logger.ts';
import { silentMetrics } from '../../src/runtime/metrics.ts';
import { SystemClock } from '../../src/runtime/node/clock.ts';
import { codec } from '../kit/layers.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { makeExt4Layer } from './kit/filesystem-layers.ts';
import { MemoryReader, NO_TRACES, run, tracesOf } from './kit/images.ts';

const NEVER = new AbortController().signal;

/** Devices of images, and the chain of an image of one layer. */
async function startDevices() {
  const folder = tempFolder();
  const reader = new MemoryReader();
  const { layer } = await makeExt4Layer(folder);
  const blob = reader.add(layer);
  const shared = { clock: new SystemClock(), logger: silentLogger };
  const local = new LocalLayers({ others: reader });
  const dir = join(folder, 'images');
  const service = new DeviceService(
    { ...shared, reader: local, codec, metrics: silentMetrics },
    { stateDir: join(folder, 'state'), mountFolders: [dir] },
  );
  const images = { open: async () => ({ close: () => {} }), settled: () => {} };
  const devices = new ImageDevices({ ...shared, devices: service, images, local }, { dir });
  onTestFinished(async () => {
    devices.stop();
    await service.stop();
    expect(tracesOf(folder)).toEqual(NO_TRACES);
  });
  await service.start();
  devices.start();
  const reference = 'registry.example/app:1';
  const chain = { chainId: blob.digest, reference, layers: [blob] };
  return { devices, chain, folder };
}

describeWith('ImageDevices', [needs.root, needs.fuse, needs.program('unshare')], () => {
  it('a device that another mount namespace keeps is listed, goes on, and goes later', async () => {
    const { devices, chain, folder } = await startDevices();
    await devices.hold(chain, 'a', NEVER);
    const program = fileURLToPath(new URL('./kit/apart-child.ts', import.meta.url));
    const own = ['--mount', '--propagation', 'private', process.execPath, '--no-warnings'];
    const child = spawn('unshare', [...own, program, 'keep', folder], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    onTestFinished(() => void child.kill('SIGKILL'));
    await once(child.stdout, 'data');
    await devices.drop('a');
    const reason = expect.stringContaining(`namespace of process ${child.pid} `) as string;
    expect(devices.list()).toMatchObject([{ holders: [], refused: { count: 1, reason } }]);
    const { dir } = await devices.hold(chain, 'b', NEVER);
    expect((await run('cat', [join(dir, 'small.txt')])).stdout).toBe('xylem\n');
    expect(devices.list()[0]).not.toHaveProperty('refused');
    await devices.drop('b');
    expect(devices.list()).toMatchObject([{ holders: [], refused: { count: 1, reason } }]);
    child.stdin.end();
    await vi.waitFor(() => expect(devices.list()).toEqual([]), { timeout: 20_000 });
  });
});
