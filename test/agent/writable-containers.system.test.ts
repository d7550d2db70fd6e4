import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, onTestFinished, test, vi } from 'vitest';
import { askAgent } from '../../src/agent/admin/admin-client.ts';
import { blobPath, putBlob, readTag, tagManifest } from '../../src/convert/oci-layout.ts';
import {
  CONFIG_MEDIA_TYPE,
  LAYER_MEDIA_TYPE,
  MANIFEST_MEDIA_TYPES,
  OVERLAYBD_ANNOTATION,
} from '../../src/image/manifest.ts';
import { NO_TRACES, tracesOf } from '../device/kit/images.ts';
import { makeBusyboxImage } from '../kit/block-image.ts';
import { Containerd } from '../kit/containerd.ts';
import { startDeviceHost } from '../kit/device-host.ts';
import { startDeviceProcess, type TestDeviceProcess } from '../kit/device-process.ts';
import { startDockerRegistry } from '../kit/docker-registry.ts';
import { sampleBytes } from '../kit/layers.ts';
import { digestOf } from '../kit/registry-content.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { pushLayout } from '../kit/skopeo.ts';
import { tempFolder } from '../kit/temp-folder.ts';

const run = promisify(execFile);
const CLI = fileURLToPath(new URL('../../bin/xylem.js', import.meta.url));
const WRITABLE = 'containerd.io/snapshot/overlaybd.writable';
const SUM = createHash('sha256').update(sampleBytes(1_000_000, 1)).digest('hex');

/** Shows what a container wrote. */
const AGAIN = 'cat /data/a; ls /data; busybox sha256sum /random';

/** Writes and syncs files until it is stopped; the sum of each is there once it is synced. */
const WRITE_ON =
  'mkdir /done /files; i=0; while [ ! -e /stop ]; do i=$((i+1)); ' +
  'busybox dd if=/dev/urandom of=/files/$i bs=10k count=$((i % 40 + 1)) conv=fsync ' +
  '2>/dev/null && ' +
  'busybox sha256sum /files/$i > /sum && ' +
  'busybox dd if=/sum of=/done/$i conv=fsync 2>/dev/null || exit; done; ' +
  'busybox sync; echo no error';

/** Checks all files with their sums. */
const CHECK =
  'busybox cat /done/* > /tmp/sums && busybox sha256sum -c /tmp/sums > /tmp/said && ' +
  'echo all $(ls /done | busybox wc -l) good';

/** A host with an agent, devices and a containerd that has pulled an image. */
async function startHost(keys: Readonly<Record<string, unknown>> = {}) {
  const registry = await startDockerRegistry();
  const layout = await makeBusyboxImage(tempFolder(), { big: sampleBytes(1_000_000, 1) });
  const image = `${registry}/app:1`;
  await pushLayout(`${layout}:block`, image);
  const { host, device } = await startDeviceHost(registry, onTestFinished, keys);
  const snapshotter = { socket: device.snapshotter };
  const containerd = await Containerd.start(tempFolder(), { snapshotter });
  await containerd.pullRemote(image);
  return { registry, layout, host, device, containerd, image };
}

let count = 0;
const newId = (): string => `xylem-writable-${process.pid}-${++count}`;

/** A container with a device of its own, which runs a script. */
class WritableContainer {
  readonly id = newId();
  readonly #containerd: Containerd;

  constructor(containerd: Containerd) {
    this.#containerd = containerd;
  }

  async create(image: string, mode: string): Promise<void> {
    const labels = ['--snapshotter-label', `${WRITABLE}=${mode}`];
    const args = ['containers', 'create', '--snapshotter', 'xylem', ...labels];
    await this.#containerd.ctr([...args, image, this.id, 'sleep', '100000']);
  }

  async start(): Promise<void> {
    await this.#containerd.ctr(['tasks', 'start', '--detach', this.id]);
  }

  async stop(): Promise<void> {
    await this.#containerd.ctr(['tasks', 'delete', '--force', this.id]);
  }

  /** What a script in it prints. */
  sh(script: string): Promise<string> {
    const exec = ['tasks', 'exec', '--exec-id', newId(), this.id, 'busybox', 'sh', '-c', script];
    return this.#containerd.ctr(exec);
  }

  snapshots(...args: readonly string[]): Promise<string> {
    return this.#containerd.ctr(['snapshots', '--snapshotter', 'xylem', ...args]);
  }
}

const devicesOf = async (device: TestDeviceProcess) =>
  (await askAgent({ admin: device.socket }, 'devices')).devices;

describeWith(
  'containers on writable devices',
  [
    ...[needs.root, needs.fuse],
    ...['containerd', 'ctr-remote', 'runc', 'docker-registry', 'skopeo', 'tune2fs'].map(
      needs.program,
    ),
  ],
  () => {
    test.each(['dir', 'dev'])(
      'what is written (%s) is there again, and becomes a layer',
      async (mode) => {
        const { registry, layout, device, containerd, image } = await startHost();
        const container = new WritableContainer(containerd);
        await container.create(image, mode);
        await container.start();
        const script =
          'grep " / " /proc/mounts; busybox sha256sum /data/big; ' +
          'echo mine > /data/a; rm -r /data/big; ' +
          'dd if=/dev/urandom of=/random bs=1M count=3 2>/dev/null; busybox sha256sum /random';
        const said = await container.sh(script);
        const [mount = '', , random = ''] = said.split('\n');
        expect(mount).toMatch(/^\/dev\/loop[0-9]+ \/ ext4 rw,(no|rel)atime,/);
        expect(said).toContain(SUM);
        await container.stop();
        await container.start();
        expect(await container.sh(AGAIN)).toBe(`mine\na\n${random}\n`);
        const [mine, ...others] = await devicesOf(device);
        expect(mine).toMatchObject({
          writable: mode,
          holders: [expect.stringMatching(container.id)],
        });
        expect(others).toEqual([]);
        await container.sh('sync');
        const used = (await container.snapshots('usage', container.id)).split('\n')[1] ?? '';
        expect(Number(/ ([0-9.]+) MiB/.exec(used)?.[1])).toBeGreaterThan(2.9);
        const commit = (): Promise<string> => container.snapshots('commit', 'done', container.id);
        await expect(commit()).rejects.toThrow(/is in use; end its container first/);
        expect(await container.sh(AGAIN)).toBe(`mine\na\n${random}\n`);
        await container.stop();
        await commit();
        expect(await devicesOf(device)).toEqual([]);
        await seeIn(container, 'done', random);

        const labels = await labelsOf(container, 'done');
        const block = await pushWithLayer(layout, labels, `${registry}/app:2`);
        await run('node', [CLI, 'export', block, `oci:${layout}:files`]);
        await run('node', [CLI, 'check', block, `oci:${layout}:files`]);
        await fsck(block);
        await containerd.pullRemote(`${registry}/app:2`);
        const overlay = await containerd.run(`${registry}/app:2`, newId(), ['sh', '-c', AGAIN]);
        expect(overlay).toBe(`mine\na\n${random}\n`);
        const next = new WritableContainer(containerd);
        await next.create(`${registry}/app:2`, mode);
        await next.start();
        expect(await next.sh(`${AGAIN}; touch /data/b`)).toBe(`mine\na\n${random}\n`);
        await containerd.clear();
        for (const name of [container.id, 'done', next.id]) {
          await container.snapshots('rm', name).catch(() => {});
        }
        for (const tag of [1, 2]) {
          await containerd.ctr(['images', 'rm', '--sync', `${registry}/app:${tag}`]);
        }
        await vi.waitFor(() => {
          expect(tracesOf(device.stateDir)).toEqual(NO_TRACES);
          expect(readdirSync(join(device.snapshotsDir, 'snapshots'))).toEqual([]);
        }, 20_000);
      },
      120_000,
    );

    test('writes go on when the serving process is killed; what was synced outlasts the keeper', {
      timeout: 240_000,
    }, async () => {
      const { host, device, containerd, image } = await startHost();
      const container = new WritableContainer(containerd);
      await container.create(image, 'dir');
      await container.start();
      const writing = container.sh(WRITE_ON);
      for (let kill = 1; kill <= 3; kill++) {
        await vi.waitFor(async () => {
          expect(await container.sh('ls /done | busybox wc -l')).not.toBe('0\n');
        });
        await device.killServing();
      }
      await container.sh('touch /stop');
      expect(await writing).toBe('no error\n');
      const said = await container.sh(CHECK);
      expect(said).toMatch(/^all [1-9][0-9]* good\n$/);
      await container.sh('echo unsynced > /late');
      device.keeper.kill('SIGKILL');
      await vi.waitFor(() => expect(device.servingPid()).toBe(0));
      const next = await startDeviceProcess(host);
      await expect(container.sh('cat /data/big')).rejects.toThrow();
      await container.stop();
      // containerd pauses after a connection that failed; kubelets start again too.
      await vi.waitFor(() => container.start(), { timeout: 60_000, interval: 1_000 });
      expect(await container.sh(CHECK)).toBe(said);
      await containerd.clear();
      await container.snapshots('rm', container.id).catch(() => {});
      await next.stop();
    });

    test('a device that is full fails writes, and keeps what was synced', {
      timeout: 240_000,
    }, async () => {
      const { registry, layout, device, containerd, image } = await startHost({
        writableSizeMax: '64MiB',
      });
      const container = new WritableContainer(containerd);
      await container.create(image, 'dir');
      await container.start();
      await container.sh('echo early > /early; sync');
      // What is overwritten takes no space.
      const again = 'dd if=/dev/urandom of=/again bs=1M count=20 conv=notrunc,fsync';
      await container.sh(`for i in 1 2 3 4 5 6; do busybox ${again} 2>/dev/null || exit 1; done`);
      const fill = 'busybox dd if=/dev/urandom of=/fill bs=1M count=100 conv=fsync 2>&1';
      await expect(container.sh(fill)).rejects.toThrow();
      expect(await container.sh('touch /x 2>&1 || true')).toContain('Read-only file system');
      expect(readFileSync(device.logFile, 'utf8')).toContain('the writable layer is full');
      expect(await container.sh('cat /early')).toBe('early\n');
      await container.stop();
      await container.start();
      expect(await container.sh('rm /again; echo more > /more; sync; cat /early /more')).toBe(
        'early\nmore\n',
      );
      await container.stop();
      await container.snapshots('commit', 'done', container.id);
      const block = await pushWithLayer(
        layout,
        await labelsOf(container, 'done'),
        `${registry}/app:2`,
      );
      await fsck(block);
    });
  },
);

async function labelsOf(container: WritableContainer, name: string) {
  const text = await container.snapshots('info', name);
  return (JSON.parse(text) as { Labels: Readonly<Record<string, string>> }).Labels;
}

/** Checks the file system of a block image. */
async function fsck(block: string): Promise<void> {
  const flat = join(tempFolder(), 'disk.img');
  await run('node', [CLI, 'flatten', '--out', flat, block]);
  await run('/usr/sbin/e2fsck', ['-fn', flat]);
}

/** Mounts a view of a snapshot, and looks for what the container wrote. */
async function seeIn(container: WritableContainer, name: string, random: string): Promise<void> {
  const dir = tempFolder();
  await container.snapshots('view', 'look', name);
  await run('sh', ['-c', await container.snapshots('mounts', dir, 'look')]);
  try {
    const script = 'cat data/a; ls data; sha256sum random | sed "s: random: /random:"';
    expect((await run('sh', ['-c', script], { cwd: dir })).stdout).toBe(`mine\na\n${random}\n`);
  } finally {
    await run('umount', [dir]);
  }
  await container.snapshots('rm', 'look');
}

/**
 * Pushes the block image with one more layer, which labels of a committed snapshot describe; gives
 * its place in the layout.
 */
async function pushWithLayer(
  layout: string,
  labels: Readonly<Record<string, string>>,
  to: string,
): Promise<string> {
  const path = labels['containerd.io/snapshot/overlaybd.localcommitpath'] ?? '';
  const bytes = readFileSync(path);
  const isAnnotation = ([key]: [string, string]): boolean => key.startsWith(OVERLAYBD_ANNOTATION);
  const annotations = Object.fromEntries(Object.entries(labels).filter(isAnnotation));
  const digest = digestOf(bytes);
  expect(annotations).toMatchObject({
    [`${OVERLAYBD_ANNOTATION}blob-digest`]: digest,
    [`${OVERLAYBD_ANNOTATION}blob-size`]: String(bytes.length),
  });
  const image = await readTag({ directory: layout, tag: 'block' });
  const config = JSON.parse(readFileSync(blobPath(layout, image.config.digest), 'utf8')) as {
    rootfs: { diff_ids: string[] };
  };
  config.rootfs.diff_ids.push(digest);
  const put = async (content: Uint8Array, mediaType: string) => {
    await putBlob(layout, digestOf(content), content);
    return { mediaType, digest: digestOf(content), size: content.length };
  };
  const layer = { ...(await put(bytes, LAYER_MEDIA_TYPE)), annotations };
  const [mediaType] = MANIFEST_MEDIA_TYPES;
  const manifest = {
    ...{ schemaVersion: 2, mediaType, layers: [...image.layers, layer] },
    config: await put(Buffer.from(JSON.stringify(config)), CONFIG_MEDIA_TYPE),
  };
  await tagManifest(
    { directory: layout, tag: 'more' },
    await put(Buffer.from(JSON.stringify(manifest)), mediaType),
  );
  await pushLayout(`${layout}:more`, to);
  return `oci:${layout}:more`;
}
