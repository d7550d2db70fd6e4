import { createHash } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { askAgent } from '../../src/agent/admin/admin-client.ts';
import { waitReady } from '../../src/demo/processes.ts';
import { defined } from '../../src/util/assert.ts';
import { NO_TRACES, tracesOf } from '../device/kit/images.ts';
import { makeBusyboxImage } from '../kit/block-image.ts';
import { Containerd } from '../kit/containerd.ts';
import { startDeviceHost } from '../kit/device-host.ts';
import { startDockerRegistry } from '../kit/docker-registry.ts';
import { sampleBytes } from '../kit/layers.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { pushLayout } from '../kit/skopeo.ts';
import { tempFolder } from '../kit/temp-folder.ts';

const IMAGES = [1, 2, 3];
const CONTAINERS = 20;
const BIG_BYTES = 6_000_000;

/** The file `/data/big` of an image. */
const bigOf = (image: number): Uint8Array => sampleBytes(BIG_BYTES, image);
const sumOf = (image: number): string => createHash('sha256').update(bigOf(image)).digest('hex');

/** A host with an agent, devices, and a containerd that has pulled all images. */
async function startHost() {
  const registry = await startDockerRegistry();
  for (const image of IMAGES) {
    const layout = await makeBusyboxImage(tempFolder(), { big: bigOf(image) });
    await pushLayout(`${layout}:block`, `${registry}/app:${image}`);
  }
  const { cluster, host, device } = await startDeviceHost(registry);
  const snapshotter = { socket: device.snapshotter };
  const containerd = await Containerd.start(tempFolder(), { snapshotter });
  const nameOf = (image: number): string => `${registry}/app:${image}`;
  for (const image of IMAGES) await containerd.pullRemote(nameOf(image));
  return { cluster, host, device, containerd, nameOf };
}

const NEEDS = [
  ...[needs.root, needs.fuse],
  ...['containerd', 'ctr-remote', 'runc', 'docker-registry', 'skopeo'].map(needs.program),
];

describeWith('containers of one host', NEEDS, () => {
  test('20 of 3 images start together, share 3 devices, and leave nothing', async () => {
    const { device, containerd, nameOf } = await startHost();
    const all = Array.from({ length: CONTAINERS }, (_, i) => ({
      image: defined(IMAGES[i % IMAGES.length], 'an image'),
      id: `xylem-many-${process.pid}-${i}`,
    }));
    await Promise.all(
      all.map(({ image, id }) => containerd.runDetached(nameOf(image), id, ['sleep', '1000'])),
    );
    const { devices } = await askAgent({ admin: device.socket }, 'devices');
    expect(devices).toHaveLength(IMAGES.length);
    expect(devices.flatMap(({ holders }) => holders)).toHaveLength(CONTAINERS);
    const sums = await Promise.all(all.map(({ id }) => sumIn(containerd, id)));
    expect(sums).toEqual(all.map(({ image }) => sumOf(image)));
    await containerd.clear();
    for (const image of IMAGES) await containerd.ctr(['images', 'rm', '--sync', nameOf(image)]);
    await vi.waitFor(async () => {
      expect((await askAgent({ admin: device.socket }, 'devices')).devices).toEqual([]);
    }, 20_000);
    expect(tracesOf(device.stateDir)).toEqual(NO_TRACES);
    expect(readdirSync(join(device.stateDir, 'mounts'))).toEqual([]);
    expect(readdirSync(device.stateDir + '/images')).toEqual([]);
    expect(await containerd.ctr(['snapshots', '--snapshotter', 'xylem', 'ls'])).not.toMatch(
      /sha256/,
    );
  });

  test('a container reads on while agent and serving process are killed', async () => {
    const { cluster, host, device, containerd, nameOf } = await startHost();
    const id = `xylem-reader-${process.pid}`;
    // The page cache of the kernel would answer what it has read once.
    const script =
      'for i in 1 2 3 4 5 6 7 8; do dd if=/data/big iflag=direct bs=64k 2>/dev/null | sha256sum; ' +
      'sleep 1; done';
    const command = ['busybox', 'sh', '-c', script.replaceAll(/\b(dd|sha256sum)\b/g, 'busybox $1')];
    const reading = containerd.run(nameOf(1), id, command);
    reading.catch(() => {}); // It is awaited below.
    // A call of containerd that is in flight when its snapshotter dies fails: kubelets try again.
    await vi.waitFor(async () => {
      expect(await containerd.ctr(['tasks', 'ls'])).toMatch(/RUNNING/);
    }, 60_000);
    for (let i = 0; i < 2; i++) {
      await device.killServing();
      host.process.signal('SIGKILL');
      await cluster.restart(host);
      await waitReady(host.process);
    }
    const sums = (await reading).trim().split('\n');
    expect(sums).toHaveLength(8);
    expect(new Set(sums)).toEqual(new Set([`${sumOf(1)}  -`]));
  });
});

/** The sum of `/data/big` as a running container reads it. */
async function sumIn(containerd: Containerd, id: string): Promise<string> {
  const exec = ['tasks', 'exec', '--exec-id', 'sum', id, 'busybox', 'sha256sum', '/data/big'];
  return (await containerd.ctr(exec)).split(' ')[0] ?? '';
}
