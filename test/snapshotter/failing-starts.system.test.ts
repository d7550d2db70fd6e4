import { createServer } from 'node:net';
import { join } from 'node:path';
import { beforeAll, expect, it, onTestFinished, vi } from 'vitest';
import { encodeRefused } from '../../src/device/link/frames.ts';
import { LINK_VERSION } from '../../src/device/link/limits.ts';
import { makeExt4Layer } from '../device/kit/filesystem-layers.ts';
import { Containerd } from '../kit/containerd.ts';
import { CriClient } from '../kit/cri-client.ts';
import { startAgentHost } from '../kit/device-host.ts';
import { startDockerRegistry } from '../kit/docker-registry.ts';
import { plainHostsDir } from '../kit/hosts-dir.ts';
import { sampleBytes } from '../kit/layers.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { atEndOfAll, tempFolder } from '../kit/temp-folder.ts';
import {
  pushBytesAsLayer,
  pushLying,
  sharedBlockRig,
  startBlockHost,
  type BlockHost,
} from './kit/block-host.ts';

const NEEDS = [
  ...[needs.root, needs.fuse],
  ...['containerd', 'runc', 'docker-registry', 'skopeo', 'mke2fs', 'htpasswd'].map(needs.program),
];

/** A containerd on devices that ask an agent: that of the rig, or what is at a socket. */
async function startOn(
  { rig, imageOf }: ReturnType<typeof sharedBlockRig>,
  setting: Parameters<typeof startBlockHost>[2] = {},
): Promise<{ host: BlockHost; cri: CriClient }> {
  const host = await startBlockHost(rig, onTestFinished, setting);
  const containerd = await Containerd.start(plainHostsDir(rig.registry), {
    ...{ snapshotter: { socket: host.socket }, sandboxImage: imageOf('pause') },
  });
  const cri = new CriClient(containerd.socket);
  onTestFinished(() => cri.close());
  return { host, cri };
}

describeWith('A start that cannot succeed', NEEDS, () => {
  const shared = sharedBlockRig();
  const atEnd = atEndOfAll();
  let layer: Uint8Array;

  beforeAll(async () => {
    ({ layer } = await makeExt4Layer(tempFolder(atEnd)));
  });

  const start = (agentSocket?: string) =>
    startOn(shared, agentSocket === undefined ? {} : { agentSocket });

  const damagedAt = (offset: number): Uint8Array => {
    const bytes = layer.slice();
    bytes.set(sampleBytes(64, 3), offset < 0 ? bytes.length + offset : offset);
    return bytes;
  };

  it.each([
    ['no-layer', () => sampleBytes(5000, 9), /neither the magic number of a ZFile/],
    ['bad-index', () => damagedAt(-4000), /jump table entry/],
    ['bad-header', () => damagedAt(1200), /header is damaged/],
  ])('of the image %s says so at the container, and leaves nothing', async (name, bytes, why) => {
    await pushBytesAsLayer(shared.rig, name, bytes());
    const image = `${shared.rig.registry}/team/${name}:1`;
    const { host, cri } = await start();
    await cri.pull(image);
    const pod = await cri.runPod(`pod-${process.pid}-${name}`, tempFolder());
    const created = cri.create(pod, 'a', image, ['/bin/true']);
    await expect(created).rejects.toThrow(why);
    await cri.removePod(pod);
    await expect.poll(() => host.devices.images.list()).toEqual([]);
  });

  it.each([
    ['too small', { moreBytes: -4096 }, /no part of it|size/],
    ['too large', { moreBytes: 4096 }, /no part of it|size/],
    ['a trace', { isTrace: true }, /is a block layer, and no trace/],
  ])('of an image that calls a shared layer %s ends it, and no other', async (...row) => {
    const [name, lie, why] = row;
    const tag = name.replace(' ', '-');
    const { host, cri } = await start();
    const hostile = await pushLying(shared.rig, tag, lie);
    await expect(cri.pull(hostile)).rejects.toThrow(why);
    const image = shared.imageOf('block');
    // containerd may collect the first layer, which the failed pull has left, while it looks for
    // the second: kubelets try again.
    await vi.waitFor(() => cri.pull(image), { timeout: 30_000, interval: 1_000 });
    const pod = await cri.runPod(`pod-${process.pid}-${tag}`, tempFolder());
    const container = await cri.create(pod, 'a', image, ['/bin/busybox', 'true']);
    await cri.start(container);
    await cri.removePod(pod);
    await expect.poll(() => host.devices.images.list()).toEqual([]);
  });

  it('of an image that the agent may not read says so at the pull', async () => {
    const user = { username: 'reader', password: 'word' };
    const { storage } = shared.rig;
    const registry = await startDockerRegistry({ storage, htpasswd: user });
    const rig = { ...shared.rig, ...(await startAgentHost(registry)), registry };
    const host = await startBlockHost(rig, onTestFinished);
    const containerd = await Containerd.start(plainHostsDir(registry), {
      ...{ snapshotter: { socket: host.socket }, sandboxImage: `${registry}/team/app:pause` },
    });
    const cri = new CriClient(containerd.socket);
    onTestFinished(() => cri.close());
    const pulled = cri.pull(`${registry}/team/app:block`, user);
    await expect(pulled).rejects.toThrow(/wants credentials, and none are given/);
    expect(host.snapshotter.list([])).toEqual([]);
  });

  it('without an agent says so at the pull', async () => {
    const { cri } = await start(join(tempFolder(), 'agent.sock'));
    const pulled = cri.pull(shared.imageOf('block'));
    await expect(pulled).rejects.toThrow(/no connection: connect ENOENT/);
  });

  it('with an agent of another version says so at the pull', async () => {
    const refused = encodeRefused('no').slice();
    expect(refused[5]).toBe(LINK_VERSION);
    refused[5] = LINK_VERSION + 1;
    const socket = join(tempFolder(), 'agent.sock');
    const agent = createServer((connection) => connection.end(refused));
    agent.listen(socket);
    onTestFinished(() => void agent.close());
    const { cri } = await start(socket);
    const pulled = cri.pull(shared.imageOf('block'));
    const versions = `it speaks version ${LINK_VERSION + 1}, this process ${LINK_VERSION}`;
    await expect(pulled).rejects.toThrow(versions);
  });
});
