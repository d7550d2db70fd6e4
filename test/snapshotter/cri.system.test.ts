import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { Containerd } from '../kit/containerd.ts';
import { CriClient } from '../kit/cri-client.ts';
import { plainHostsDir } from '../kit/hosts-dir.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import {
  BIG,
  expectNothingIn,
  pushBrokenImage,
  sharedBlockRig,
  startBlockHost,
} from './kit/block-host.ts';

const NEEDS = [
  ...[needs.root, needs.fuse],
  ...['containerd', 'runc', 'docker-registry', 'skopeo'].map(needs.program),
];

const SUM = createHash('sha256').update(BIG).digest('hex');
const FOREVER = ['/bin/sh', '-c', 'while true; do cat /data/big > /dev/null || exit 3; done'];

describeWith('Snapshotter, CRI', NEEDS, () => {
  const shared = sharedBlockRig();
  const { imageOf } = shared;

  async function start() {
    const host = await startBlockHost(shared.rig, onTestFinished);
    const containerd = await Containerd.start(plainHostsDir(shared.rig.registry), {
      ...{ snapshotter: { socket: host.socket }, sandboxImage: imageOf('pause') },
    });
    const cri = new CriClient(containerd.socket);
    onTestFinished(() => cri.close());
    const content = (): Promise<string> =>
      containerd.ctr(['content', 'ls', '--quiet'], { namespace: 'k8s.io' });
    return { host, containerd, cri, content };
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
    const digest = await pushBrokenImage(shared.rig);
    const pulled = cri.pull(`${shared.rig.registry}/team/broken:1`);
    await expect(pulled).rejects.toThrow(new RegExp(`${digest}[^\\n]*not found`));
    expect(host.snapshotter.list([])).toEqual([]);
  });
});
