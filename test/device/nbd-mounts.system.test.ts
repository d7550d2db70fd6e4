import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it, onTestFinished } from 'vitest';
import { DeviceService } from '../../src/device/device-service.ts';
import { kernelNbdFault } from '../../src/device/nbd/kernel.ts';
import { kernelNbds } from '../../src/device/nbd-devices.ts';
import { silentLogger } from '../../src/runtime/logger.ts';
import { silentMetrics } from '../../src/runtime/metrics.ts';
import { codec } from '../kit/layers.ts';
import { PatientClock } from '../kit/patient-clock.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { makeErofsLayer, makeExt4Layer } from './kit/filesystem-layers.ts';
import { imageOf, MemoryReader, NO_TRACES, run, tracesOf } from './kit/images.ts';
import { storeBlob } from './kit/stored-image.ts';

const NEEDS = [needs.root, kernelNbdFault, needs.program('mke2fs')];

/** A service whose mounts are devices of NBD; it must leave nothing on the host. */
function makeService(folder: string, storeDir?: string) {
  const reader = new MemoryReader();
  const store = { untrustedSigners: [], digestsOf: () => undefined };
  const service = new DeviceService(
    { reader, codec, clock: new PatientClock(), logger: silentLogger, metrics: silentMetrics },
    {
      ...{ stateDir: join(folder, 'state'), mountFolders: [folder], backend: 'nbd' },
      ...(storeDir !== undefined && { store: { ...store, dir: storeDir } }),
    },
  );
  return { service, reader };
}

async function startService(
  folder: string,
  storeDir?: string,
): Promise<ReturnType<typeof makeService>> {
  const made = makeService(folder, storeDir);
  onTestFinished(async () => {
    await made.service.stop();
    expect(tracesOf(folder)).toEqual(NO_TRACES);
    expect(readdirSync(join(folder, 'state', 'mounts'))).toEqual([]);
    expect(kernelNbds()).toEqual([]);
  });
  await made.service.start();
  return made;
}

describeWith('DeviceService, over NBD,', NEEDS, () => {
  it('shows the files of ext4 images and EROFS ones, each on a device of its own', async () => {
    const folder = tempFolder();
    const { service, reader } = await startService(folder);
    const images = await Promise.all(
      [makeExt4Layer, makeErofsLayer].map(async (make, i) => {
        const own = join(folder, `image${i}`);
        mkdirSync(own);
        const { layer, files } = await make(own);
        return { image: imageOf([reader.add(layer)]), files, dir: join(folder, `mnt${i}`) };
      }),
    );
    for (const { image, dir } of images) {
      expect((await service.mount(image, dir)).device).toMatch(/^\/dev\/nbd\d+$/);
    }
    expect(kernelNbds()).toHaveLength(2);
    for (const { files, dir } of images) {
      await run('diff', ['-r', '--exclude=lost+found', files, dir]);
      const reads = service.reads(dir);
      expect(reads?.touchedBytes).toBeGreaterThan(5_000_000);
      expect(reads?.fetchedBytes).toBeGreaterThan(5_000_000);
      expect(reads).toMatchObject({ waiting: 0, failed: 0, storeBytes: 0 });
    }
    await service.unmount(images[0]?.dir ?? '');
    expect(kernelNbds()).toHaveLength(1);
    await service.unmount(images[1]?.dir ?? '');
  });

  it("reads by a thread of its own what the store's files hold", async () => {
    const folder = tempFolder();
    const { layer, files } = await makeExt4Layer(folder);
    const { service, reader } = await startService(folder, join(folder, 'store'));
    const blob = reader.add(layer);
    await storeBlob(join(folder, 'store'), blob, layer);
    const dir = join(folder, 'mnt');
    await service.mount(imageOf([blob]), dir);
    await run('diff', ['-r', '--exclude=lost+found', files, dir]);
    expect(service.reads(dir)).toMatchObject({ fetchedBytes: 0 });
    expect(service.reads(dir)?.storeBytes).toBeGreaterThan(5_000_000);
    await service.unmount(dir);
  });

  it('refuses to unmount a device in use, and fails reads where its bytes fail', async () => {
    const folder = tempFolder();
    const { layer, files } = await makeExt4Layer(folder);
    const { service, reader } = await startService(folder);
    const dir = join(folder, 'mnt');
    await service.mount(imageOf([reader.add(layer)]), dir);
    const bound = join(folder, 'bound');
    mkdirSync(bound);
    await run('mount', ['--bind', dir, bound]);
    await expect(service.unmount(dir)).rejects.toMatchObject({ detail: { code: 'busy' } });
    reader.gate = () => Promise.reject(new Error('the deadline has passed'));
    const big = join(bound, 'deep', 'er', 'big');
    await expect(run('dd', [`if=${big}`, 'of=/dev/null'])).rejects.toThrow('Input/output error');
    expect(service.reads(dir)?.failed).toBeGreaterThan(0);
    reader.gate = () => Promise.resolve();
    await run('cmp', [big, join(files, 'deep', 'er', 'big')]);
    await run('umount', [bound]);
    await service.unmount(dir);
  });

  it('fails all reads when it stops while they wait, and detaches the device', async () => {
    const folder = tempFolder();
    const { layer } = await makeExt4Layer(folder);
    const { service, reader } = await startService(folder);
    const dir = join(folder, 'mnt');
    await service.mount(imageOf([reader.add(layer)]), dir);
    const { promise: asked, resolve } = Promise.withResolvers<void>();
    reader.gate = () => {
      resolve();
      return new Promise(() => {});
    };
    const reading = run('dd', [`if=${join(dir, 'deep', 'er', 'big')}`, 'of=/dev/null']);
    const failing = expect(reading).rejects.toThrow('Input/output error');
    await asked;
    await service.stop();
    await failing;
  });

  it('goes on, without a keeper, with the mount of a process that was killed', async () => {
    const folder = tempFolder();
    const { layer, files } = await makeExt4Layer(folder);
    writeFileSync(join(folder, 'layer'), layer);
    const program = fileURLToPath(new URL('./kit/serve-child.ts', import.meta.url));
    const paths = ['state', 'layer', 'mnt'].map((name) => join(folder, name));
    const args = ['--no-warnings', program, ...paths, 'nbd'];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    await once(child.stdout, 'data');
    const closed = once(child, 'close');
    const dir = join(folder, 'mnt');
    // The child answers no read, so that this one waits for the next process.
    const diff = run('diff', ['-r', '--exclude=lost+found', files, dir]);
    child.kill('SIGKILL');
    await closed;
    const { service, reader } = makeService(folder);
    reader.add(layer);
    onTestFinished(() => service.stop());
    await service.start();
    expect(service.list()).toHaveLength(1);
    await diff;
    await service.unmount(dir);
    expect(kernelNbds()).toEqual([]);
  });
});

describe('DeviceService, where the kernel has no NBD driver,', () => {
  it.runIf(kernelNbdFault() !== undefined)('says so at its start', async () => {
    const { service } = makeService(tempFolder());
    const failure: unknown = await service.start().catch((error: unknown) => error);
    expect(failure).toMatchObject({ detail: { code: 'not-permitted' } });
    expect((failure as Error).message).toMatch(/device\.backend.*modprobe nbd.*backend: loop/);
  });
});
