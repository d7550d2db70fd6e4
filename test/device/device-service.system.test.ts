import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it, onTestFinished } from 'vitest';
import { DeviceService } from '../../src/device/device-service.ts';
import type { ResolvedImage } from '../../src/image/manifest.ts';
import { silentLogger } from '../../src/runtime/logger.ts';
import { silentMetrics } from '../../src/runtime/metrics.ts';
import type { Clock } from '../../src/runtime/clock.ts';
import { SystemClock } from '../../src/runtime/node/clock.ts';
import { codec, makeLayer, sampleBytes } from '../kit/layers.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { ManualClock } from '../kit/manual-clock.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { makeErofsLayer, makeExt4Layer } from './kit/filesystem-layers.ts';
import { imageOf, MemoryReader, NO_TRACES, run, tracesOf } from './kit/images.ts';

/**
 * A started service in its own folder. It is stopped when the test ends, and must leave nothing on
 * the host.
 */
async function startService(
  folder = tempFolder(),
  clock: Clock = new SystemClock(),
): Promise<{
  service: DeviceService;
  reader: MemoryReader;
  folder: string;
}> {
  const reader = new MemoryReader();
  const components = { reader, codec, clock, logger: silentLogger };
  const service = new DeviceService(
    { ...components, metrics: silentMetrics },
    { stateDir: join(folder, 'state'), mountFolders: [folder] },
  );
  onTestFinished(async () => {
    await service.stop();
    expect(tracesOf(folder)).toEqual(NO_TRACES);
    expect(readdirSync(join(folder, 'state', 'mounts'))).toEqual([]);
  });
  await service.start();
  return { service, reader, folder };
}

async function startWithImage(
  clock?: Clock,
): Promise<
  Awaited<ReturnType<typeof startService>> & { image: ResolvedImage; files: string; dir: string }
> {
  const started = await startService(tempFolder(), clock);
  const { layer, files } = await makeExt4Layer(started.folder);
  const image = imageOf([started.reader.add(layer)], 'ext4');
  return { ...started, image, files, dir: join(started.folder, 'mnt') };
}

/** Arguments that make Node mount the file `layer` of the folder in another process. */
function childArguments(folder: string): string[] {
  const program = fileURLToPath(new URL('./kit/serve-child.ts', import.meta.url));
  return ['--no-warnings', program, ...['state', 'layer', 'mnt'].map((name) => join(folder, name))];
}

/** A child process that serves a mount, but answers no more reads. */
async function startChild(folder: string): Promise<{ child: ChildProcess; dir: string }> {
  const { layer } = await makeExt4Layer(folder);
  writeFileSync(join(folder, 'layer'), layer);
  const child = spawn(process.execPath, childArguments(folder), {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  const [said] = (await once(child.stdout as NodeJS.ReadableStream, 'data')) as [Buffer];
  expect(said.toString()).toBe('mounted\n');
  return { child, dir: join(folder, 'mnt') };
}

/** Gives the loop devices without a file the read-ahead that one on a disk that turns leaves. */
async function leaveReadAhead(): Promise<readonly string[]> {
  const free = readdirSync('/sys/block').filter(
    (name) => /^loop\d+$/.test(name) && !existsSync(`/sys/block/${name}/loop/backing_file`),
  );
  const left: string[] = [];
  for (const device of free.map((name) => `/dev/${name}`)) {
    const before = await readAheadOf(device);
    await run('blockdev', ['--setra', '5120', device]);
    onTestFinished(
      async () => void (await run('blockdev', ['--setra', String(2 * before), device])),
    );
    if ((await readAheadOf(device)) === 2560) left.push(device);
  }
  return left;
}

/** In KiB. */
async function readAheadOf(device: string): Promise<number> {
  const name = device.slice('/dev/'.length);
  return Number((await run('cat', [`/sys/block/${name}/queue/read_ahead_kb`])).stdout);
}

const NEEDS = [
  ...[needs.root, needs.fuse],
  ...['mke2fs', 'unshare', 'blockdev'].map(needs.program),
];

describeWith('DeviceService', NEEDS, () => {
  it('mount() shows the files of the image, and unmount() leaves nothing', async () => {
    const { service, image, files, dir, folder } = await startWithImage();
    const info = await service.mount(image, dir);
    expect(info).toMatchObject({ reference: image.reference, digest: image.digest, dir });
    expect(info.device).toMatch(/^\/dev\/loop\d+$/);
    expect(service.list()).toEqual([info]);
    await run('diff', ['-r', '--exclude=lost+found', files, dir]);
    const name = info.device.slice('/dev/'.length);
    const facts = ['ro', 'loop/dio', 'loop/autoclear', 'queue/logical_block_size'];
    const { stdout } = await run(
      'cat',
      facts.map((fact) => `/sys/block/${name}/${fact}`),
    );
    expect(stdout).toBe('1\n1\n1\n4096\n');
    await service.unmount(dir);
    expect(tracesOf(folder)).toEqual(NO_TRACES);
    expect(existsSync(dir)).toBe(false); // It was made for the mount.
    await service.unmount(dir);
  });

  it('mount() sets the read-ahead, whatever an earlier file left on the loop device', async () => {
    const { service, image, dir } = await startWithImage();
    // Others may take the device that was free, or give one back: then once more.
    for (;;) {
      const left = await leaveReadAhead();
      const { device } = await service.mount(image, dir);
      if (left.includes(device)) {
        expect(await readAheadOf(device)).toBe(128);
        return;
      }
      await service.unmount(dir);
    }
  });

  it.each([
    ['drop', 'unmounts'],
    ['keep', 'refuses to unmount'],
  ])('with a namespace made meanwhile whose process may %s its mounts, %s', async (what) => {
    const { service, image, dir, folder } = await startWithImage();
    await service.mount(image, dir);
    const [upper, work, both] = ['upper', 'work', 'both'].map((name) => join(folder, name));
    for (const path of [upper, work, both]) mkdirSync(path!);
    const options = `lowerdir=${dir},upperdir=${upper},workdir=${work}`;
    await run('mount', ['-t', 'overlay', 'overlay', '-o', options, both!]);
    const program = fileURLToPath(new URL('./kit/apart-child.ts', import.meta.url));
    const own = ['--mount', '--propagation', 'private', process.execPath, '--no-warnings'];
    const child = spawn('unshare', [...own, program, what, folder], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    onTestFinished(() => void child.kill('SIGKILL'));
    await once(child.stdout, 'data');
    await run('umount', [both!]);
    if (what === 'drop') await service.unmount(dir);
    else {
      const holder = new RegExp(`the mount namespace of process ${child.pid} `);
      await expect(service.unmount(dir)).rejects.toThrow(holder);
      // It is mounted as before: for the next container of the image.
      expect((await run('cat', [join(dir, 'small.txt')])).stdout).toBe('xylem\n');
    }
    child.stdin.end();
    await once(child, 'exit');
    await service.unmount(dir);
  });

  it.skipIf(needs.program('mkfs.erofs')() !== undefined)(
    'mount() shows the files of an EROFS image, and unmount() leaves nothing',
    async () => {
      const { service, reader, folder } = await startService();
      const { layer, files } = await makeErofsLayer(folder);
      const dir = join(folder, 'mnt');
      const info = await service.mount(imageOf([reader.add(layer)], 'erofs'), dir);
      await run('diff', ['-r', files, dir]);
      expect(await run('findmnt', ['-no', 'FSTYPE', dir])).toMatchObject({ stdout: 'erofs\n' });
      expect(info.device).toMatch(/^\/dev\/loop\d+$|\/image$/);
      await service.unmount(dir);
      expect(tracesOf(folder)).toEqual(NO_TRACES);
    },
  );

  it.skipIf(needs.program('mkfs.erofs')() !== undefined)(
    'mount() refuses an EROFS that names other devices',
    async () => {
      const { service, reader, folder } = await startService();
      const { layer } = await makeErofsLayer(folder, (device) => {
        // Of the superblock: the feature, and one device whose slot would hold its path.
        device.writeUInt32LE(device.readUInt32LE(1024 + 80) | 8, 1024 + 80);
        device.writeUInt16LE(1, 1024 + 86);
      });
      const mounting = service.mount(imageOf([reader.add(layer)], 'erofs'), join(folder, 'mnt'));
      await expect(mounting).rejects.toMatchObject({
        detail: { code: 'unsupported-filesystem', filesystem: 'erofs' },
      });
      await expect(mounting).rejects.toThrow('names other block devices');
    },
  );

  it('an image whose layers are not open in two minutes leaves its place', async () => {
    const clock = new ManualClock();
    const { service, image, reader, dir } = await startWithImage(clock);
    reader.read = () => new Promise(() => {});
    const mounting = service.mount(image, dir);
    mounting.catch(() => {});
    clock.advance(120_000);
    await expect(mounting).rejects.toThrow('not done within 120000 ms');
    expect(service.mounted()).toEqual([]);
  });

  it('mounts several images at once, and unmounts one while the others go on', async () => {
    const { service, image, files, dir } = await startWithImage();
    const dirs = [1, 2, 3].map((i) => `${dir}-${i}`);
    const infos = await Promise.all(dirs.map((one) => service.mount(image, one)));
    expect(new Set(infos.map((info) => info.device)).size).toBe(3);
    await service.unmount(`${dir}-2`);
    await run('diff', ['-r', '--exclude=lost+found', files, `${dir}-3`]);
    expect(service.list().map((info) => info.dir)).toEqual([`${dir}-1`, `${dir}-3`]);
  });

  it('mount() refuses a folder that is in use or not empty, and another filesystem', async () => {
    const { service, reader, image, dir, folder } = await startWithImage();
    await service.mount(image, dir);
    await expect(service.mount(image, dir)).rejects.toMatchObject({ code: 'already-mounted' });
    mkdirSync(join(folder, 'full', 'x'), { recursive: true });
    await expect(service.mount(image, join(folder, 'full'))).rejects.toMatchObject({
      code: 'target-not-usable',
    });
    const other = imageOf([reader.add(sampleBytes(100, 1))], 'squashfs');
    await expect(service.mount(other, join(folder, 'b'))).rejects.toMatchObject({
      detail: { code: 'unsupported-filesystem', filesystem: 'squashfs' },
    });
    expect(service.list()).toHaveLength(1);
  });

  it('mount() gives no rights to who runs a set-user-ID program of the image', async () => {
    const folder = tempFolder();
    mkdirSync(join(folder, 'files'));
    copyFileSync('/usr/bin/id', join(folder, 'files', 'id'));
    chmodSync(join(folder, 'files', 'id'), 0o4755);
    const { service, reader } = await startService(folder);
    const { layer } = await makeExt4Layer(folder);
    const dir = join(folder, 'mnt');
    await service.mount(imageOf([reader.add(layer)]), dir);
    expect((await run('stat', ['-c', '%a %u', join(dir, 'id')])).stdout).toBe('4755 0\n');
    chmodSync(folder, 0o755);
    const nobody = ['--reuid', '65534', '--regid', '65534', '--clear-groups'];
    const { stdout } = await run('setpriv', [...nobody, join(dir, 'id')]);
    expect(stdout).toMatch(/^uid=65534/);
    expect(stdout).not.toContain('euid');
    const [line = ''] = tracesOf(folder).mounts.filter((mount) => mount.includes(' ext4 '));
    expect(line).toContain(' ro,nosuid,nodev,noatime ');
  });

  it('mount() refuses what is outside of its folders, and names the key', async () => {
    const { service, image, folder } = await startWithImage();
    for (const dir of ['/etc/xylem-test', folder, `${folder}-beside`, join(folder, '..', 'x')]) {
      await expect(service.mount(image, dir)).rejects.toMatchObject({
        code: 'target-not-allowed',
        message:
          `${dir} cannot be mounted on: ` +
          `images are mounted below the folders of device.mountFolders alone (${folder})`,
      });
      expect(existsSync(dir)).toBe(dir === folder);
    }
  });

  it('mount() follows no symbolic link below its folder, and makes nothing behind it', async () => {
    const { service, image, folder } = await startWithImage();
    const elsewhere = tempFolder();
    symlinkSync(elsewhere, join(folder, 'link'));
    for (const dir of ['link', 'link/new', 'link/deep/er'].map((name) => join(folder, name))) {
      await expect(service.mount(image, dir)).rejects.toMatchObject({
        code: 'target-not-usable',
        message: expect.stringContaining('a symbolic link or a file is on the way') as string,
      });
    }
    expect(readdirSync(elsewhere)).toEqual([]);
  });

  it('mount() and unmount() go nowhere else when a link replaces a folder meanwhile', async () => {
    const { service, reader, image, folder } = await startWithImage();
    const elsewhere = tempFolder();
    mkdirSync(join(elsewhere, 'mnt'));
    const [user, dir] = [join(folder, 'user'), join(folder, 'user', 'mnt')];
    const swap = (): void => {
      renameSync(user, `${user}-moved`);
      symlinkSync(elsewhere, user);
    };
    // The device's own reads are the first ones after the folder was opened.
    let reads = 0;
    reader.gate = async () => {
      if (++reads === 7) swap();
    };
    await expect(service.mount(image, dir)).rejects.toMatchObject({ code: 'failed' });
    expect(reads).toBeGreaterThan(7);
    expect(tracesOf(folder)).toEqual(NO_TRACES);
    expect(tracesOf(elsewhere)).toEqual(NO_TRACES);
    // Made for the mount there, it would have gone with it.
    expect(existsSync(join(elsewhere, 'mnt'))).toBe(true);
  });

  it('mount() takes an ext4 of blocks smaller than a page', async () => {
    const { service, reader, folder } = await startService();
    const { layer, files } = await makeExt4Layer(folder, 1024);
    const dir = join(folder, 'mnt');
    await service.mount(imageOf([reader.add(layer)]), dir);
    const difference = await run('diff', ['-r', '--exclude=lost+found', files, dir]);
    expect(difference.stdout).toBe('');
  });

  it('mount() rejects with unsupported-filesystem when the device holds no ext4', async () => {
    const { service, reader, folder } = await startService();
    const bytes = sampleBytes(65_536, 3);
    const layer = await makeLayer({
      virtualSizeBytes: 65_536,
      ranges: [{ offset: 0, bytes }],
    });
    const mounting = service.mount(imageOf([reader.add(layer)]), join(folder, 'mnt'));
    await expect(mounting).rejects.toMatchObject({ code: 'unsupported-filesystem' });
  });

  it('mount() names the needed rights where this process may not mount', async () => {
    const folder = tempFolder();
    const { layer } = await makeExt4Layer(folder);
    writeFileSync(join(folder, 'layer'), layer);
    const drop = ['--bounding-set=-sys_admin', '--inh-caps=-sys_admin', process.execPath];
    const failing = run('setpriv', [...drop, ...childArguments(folder)]);
    await expect(failing).rejects.toThrow(/CAP_SYS_ADMIN.*not-permitted/s);
    expect(tracesOf(folder)).toEqual(NO_TRACES);
    expect(readdirSync(join(folder, 'state', 'mounts'))).toEqual([]);
    expect(existsSync(join(folder, 'mnt'))).toBe(false);
  });

  it.each([
    ['/dev/fuse', 'mknod /dev/loop-control c 10 237'],
    ['/dev/loop-control', 'mknod /dev/fuse c 10 229'],
  ])('mount() names %s where there is none', async (missing, makesOther) => {
    const folder = tempFolder();
    const { layer } = await makeExt4Layer(folder);
    writeFileSync(join(folder, 'layer'), layer);
    const nodes = 'mknod /dev/null c 1 3; mknod /dev/urandom c 1 9';
    const script = `mount -t tmpfs dev /dev; ${nodes}; ${makesOther}; exec "$@"`;
    const args = ['--mount', 'sh', '-c', script, 'sh', process.execPath, ...childArguments(folder)];
    await expect(run('unshare', args)).rejects.toThrow(
      new RegExp(`${missing}.*not-permitted`, 's'),
    );
    expect(tracesOf(folder)).toEqual(NO_TRACES);
  });

  it('mount() of an image whose bytes cannot be read fails and leaves nothing', async () => {
    const { service, reader, image, dir, folder } = await startWithImage();
    let reads = 0;
    reader.gate = () => (++reads > 6 ? Promise.reject(new Error('gone')) : Promise.resolve());
    await expect(service.mount(image, dir)).rejects.toMatchObject({ code: 'failed' });
    expect(tracesOf(folder)).toEqual(NO_TRACES);
    expect(existsSync(dir)).toBe(false);
  });

  it('unmount() refuses while a file is open, and works afterwards', async () => {
    const { service, image, dir } = await startWithImage();
    await service.mount(image, dir);
    const holder = spawn('sh', ['-c', 'exec 3<small.txt; echo open; cat'], {
      cwd: dir,
      stdio: ['pipe', 'pipe', 'ignore'],
    });
    await once(holder.stdout, 'data');
    await expect(service.unmount(dir)).rejects.toMatchObject({
      code: 'busy',
      message: expect.stringContaining(`process ${holder.pid} (`) as string,
    });
    expect((await run('cat', [join(dir, 'small.txt')])).stdout).toBe('xylem\n');
    holder.stdin.end();
    await once(holder, 'exit');
    await service.unmount(dir);
    expect(service.list()).toEqual([]);
  });

  it('unmount() refuses while a bind mount uses the image', async () => {
    const { service, image, dir, folder } = await startWithImage();
    await service.mount(image, dir);
    const other = join(folder, 'bind');
    mkdirSync(other);
    await run('mount', ['--bind', dir, other]);
    await expect(service.unmount(dir)).rejects.toMatchObject({ code: 'busy' });
    expect((await run('cat', [join(other, 'small.txt')])).stdout).toBe('xylem\n');
    await run('umount', [other]);
    await service.unmount(dir);
  });

  it('unmount() minds no mount of another kind that names the same source', async () => {
    const { service, image, dir, folder } = await startWithImage();
    const { device } = await service.mount(image, dir);
    // As a user may with FUSE.
    const other = join(folder, 'other');
    mkdirSync(other);
    await run('mount', ['-i', '-t', 'tmpfs', device, other]);
    onTestFinished(async () => void (await run('umount', [other])));
    await service.unmount(dir);
    expect(service.list()).toEqual([]);
  });

  it('stop() detaches busy mounts', async () => {
    const { service, image, dir, folder } = await startWithImage();
    await service.mount(image, dir);
    const holder = spawn('sh', ['-c', 'echo in; cat'], {
      cwd: dir,
      stdio: ['pipe', 'pipe', 'ignore'],
    });
    await once(holder.stdout, 'data');
    await service.stop();
    expect(tracesOf(folder).mounts).toEqual([]);
    holder.stdin.end();
    await once(holder, 'exit');
    await expect(service.mount(image, dir)).rejects.toMatchObject({ code: 'not-running' });
  });

  it('stop() ends a mount whose FUSE folder somebody has unmounted', async () => {
    const { service, image, dir, folder } = await startWithImage();
    await service.mount(image, dir);
    const [mount = ''] = tracesOf(folder).mounts.filter((line) => line.includes(' fuse.xylem '));
    await run('umount', ['--lazy', mount.split(' ')[4] ?? '']);
    await service.stop();
    expect(tracesOf(folder)).toEqual(NO_TRACES);
  });

  it('stop() ends a mount without answers to its reads', async () => {
    const { service, reader, image, dir } = await startWithImage();
    const begun = Promise.withResolvers<void>();
    let reads = 0;
    reader.gate = () => {
      if (++reads <= 6) return Promise.resolve();
      begun.resolve();
      return new Promise(() => {});
    };
    const mounting = expect(service.mount(image, dir)).rejects.toThrow();
    await begun.promise;
    await service.stop();
    await mounting;
  });

  it('start() clears the mount of a process that was killed during reads', async () => {
    const folder = tempFolder();
    const { child, dir } = await startChild(folder);
    await expect(startService(folder)).rejects.toMatchObject({ code: 'locked' });
    const reading = run('cat', [join(dir, 'deep', 'er', 'big')]);
    const failing = expect(reading).rejects.toThrow(/Input\/output|not connected/);
    child.kill('SIGKILL');
    await once(child, 'exit');
    await failing;
    expect(tracesOf(folder).mounts).toHaveLength(2);
    await startService(folder);
    expect(tracesOf(folder)).toEqual(NO_TRACES);
    expect(existsSync(dir)).toBe(false);
  });

  it.each(['the mount', 'the mount, whose FUSE folder somebody has unmounted'])(
    'a process that exits without a stop ends, and %s with it',
    async (what) => {
      const folder = tempFolder();
      const { child, dir } = await startChild(folder);
      const mounts = tracesOf(folder).mounts.map((line) => line.split(' '));
      const fuseDir = mounts.find((words) => words.includes('fuse.xylem'))?.[4] ?? '';
      if (what !== 'the mount') await run('umount', ['--lazy', fuseDir]);
      const reading = run('cat', [join(dir, 'deep', 'er', 'big')]);
      const failing = expect(reading).rejects.toThrow(/Input\/output|not connected/);
      child.kill('SIGUSR2');
      expect(await once(child, 'exit')).toEqual([3, null]);
      await failing;
      await run('umount', [dir]);
      await startService(folder);
      expect(tracesOf(folder)).toEqual(NO_TRACES);
    },
  );

  it('a process that stops on SIGTERM leaves nothing', async () => {
    const folder = tempFolder();
    const { child } = await startChild(folder);
    child.kill('SIGTERM');
    expect(await once(child, 'exit')).toEqual([0, null]);
    expect(tracesOf(folder)).toEqual(NO_TRACES);
  });
});
