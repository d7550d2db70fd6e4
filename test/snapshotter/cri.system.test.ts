import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it, onTestFinished } from 'vitest';
import { tracesOf } from '../device/kit/images.ts';
import { Containerd } from '../kit/containerd.ts';
import { CriClient } from '../kit/cri-client.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { tempFolder, type AtEnd } from '../kit/temp-folder.ts';
import {
  BIG,
  pushBrokenImage,
  startBlockHost,
  startBlockRig,
  type BlockHost,
  type BlockRig,
} from './kit/block-host.ts';

const NEEDS = [
  ...[needs.root, needs.fuse],
  ...['containerd', 'runc', 'docker-registry', 'skopeo'].map(needs.program),
];

const SUM = createHash('sha256').update(BIG).digest('hex');
const FOREVER = ['/bin/sh', '-c', 'while true; do cat /data/big > /dev/null || exit 3; done'];

describeWith('Snapshotter, CRI', NEEDS, () => {
  const ends: (() => void | Promise<void>)[] = [];
  const atEnd: AtEnd = (end) => void ends.push(end);
  let rig: BlockRig;

  beforeAll(async () => {
    rig = await startBlockRig(atEnd);
  });
  afterAll(async () => {
    for (const end of ends.reverse()) await end();
  });

  const imageOf = (tag: string): string => `${rig.registry}/team/app:${tag}`;

  /** containerd's hosts.toml for a registry without TLS. */
  function hostsDir(): string {
    const dir = tempFolder();
    const url = `"http://${rig.registry}"`;
    mkdirSync(join(dir, rig.registry));
    const text = `server = ${url}\n[host.${url}]\n  capabilities = ["pull", "resolve"]\n`;
    writeFileSync(join(dir, rig.registry, 'hosts.toml'), text);
    return dir;
  }

  async function start() {
    const host = await startBlockHost(rig, onTestFinished);
    const containerd = await Containerd.start(hostsDir(), {
      ...{ snapshotter: { socket: host.socket }, sandboxImage: imageOf('pause') },
    });
    const cri = new CriClient(containerd.socket);
    onTestFinished(() => cri.close());
    const content = (): Promise<string> =>
      containerd.ctr(['content', 'ls', '--quiet'], { namespace: 'k8s.io' });
    return { host, containerd, cri, content };
  }

  async function expectNothingIn({ snapshotter, folder }: BlockHost): Promise<void> {
    expect(snapshotter.list([])).toEqual([]);
    expect(readdirSync(join(folder, 'snapshots'))).toEqual([]);
    // A device that is still in use is unmounted a little later.
    const traces = expect.poll(() => tracesOf(folder), { timeout: 30_000 });
    await traces.toEqual({ mounts: [], loops: [] });
  }

  it('runs pods of block images and of ordinary ones, and leaves nothing of them', async () => {
    const { host, cri, content } = await start();
    for (const tag of ['block', 'mixed', 'plain']) await cri.pull(imageOf(tag));
    const labels = host.snapshotter.list([]).map((record) => record.labels);
    const blobs = labels.flatMap((each) => each['containerd.io/snapshot/overlaybd/blob-digest']);
    expect(blobs.filter((digest) => digest !== undefined)).toHaveLength(3);
    const downloaded = await content();
    for (const digest of blobs) expect(downloaded).not.toContain(digest ?? 'none');
    const logs = tempFolder();
    const pod = await cri.runPod(`pod-${process.pid}`, logs);
    const sum = ['/bin/busybox', 'sha256sum', '/data/big'];
    const ids: string[] = [];
    for (const tag of ['block', 'mixed', 'plain']) {
      const id = await cri.create(pod, tag, imageOf(tag), FOREVER);
      ids.push(id);
      await cri.start(id);
      expect(await cri.exec(id, sum)).toBe(`${SUM}  /data/big\n`);
    }
    expect(host.devices.images.list()).toHaveLength(1);
    const once = await cri.create(pod, 'once', imageOf('block'), ['/bin/cat', '/data/a.txt']);
    await cri.start(once);
    await expect.poll(() => cri.status(once)).toMatchObject({ state: 'CONTAINER_EXITED' });
    expect(readFileSync(join(logs, 'once.log'), 'utf8')).toContain('stdout F data\n');
    for (const id of ids) expect((await cri.status(id)).state).toBe('CONTAINER_RUNNING');
    for (const id of [...ids, once]) await cri.remove(id);
    await cri.removePod(pod);
    for (const tag of ['block', 'mixed', 'plain', 'pause']) await cri.removeImage(imageOf(tag));
    await expectNothingIn(host);
  });

  it('restarts of containerd and of the snapshotter lose no image and no container', async () => {
    const { host, containerd, cri } = await start();
    await cri.pull(imageOf('block'));
    const pod = await cri.runPod(`pod-${process.pid}-restart`, tempFolder());
    const id = await cri.create(pod, 'reads', imageOf('block'), FOREVER);
    await cri.start(id);
    const images = await cri.images();
    const again = await host.restart();
    await containerd.restart('SIGKILL');
    await expect.poll(() => cri.images().catch(() => undefined)).toEqual(images);
    expect(await cri.exec(id, ['/bin/busybox', 'sha256sum', '/data/big'])).toContain(SUM);
    expect(await cri.status(id)).toMatchObject({ state: 'CONTAINER_RUNNING' });
    await cri.remove(id);
    await cri.removePod(pod);
    for (const image of images) await cri.removeImage(image);
    await expectNothingIn(again);
  });

  it('a pull says why it cannot work', async () => {
    const { host, cri } = await start();
    const digest = await pushBrokenImage(rig);
    const pulled = cri.pull(`${rig.registry}/team/broken:1`);
    await expect(pulled).rejects.toThrow(new RegExp(`${digest}[^\\n]*not found`));
    expect(host.snapshotter.list([])).toEqual([]);
  });
});
