import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, it, onTestFinished } from 'vitest';
import { tracesOf } from '../device/kit/images.ts';
import { Containerd } from '../kit/containerd.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import {
  BIG,
  expectNothingIn,
  pushBrokenImage,
  sharedBlockRig,
  startBlockHost,
  type BlockHost,
} from './kit/block-host.ts';

const run = promisify(execFile);

const NEEDS = [
  ...[needs.root, needs.fuse],
  ...['containerd', 'ctr-remote', 'runc', 'docker-registry', 'skopeo'].map(needs.program),
];

let count = 0;
const newId = (): string => `xylem-test-block-${process.pid}-${++count}`;
const SUM = createHash('sha256').update(BIG).digest('hex');

describeWith('Snapshotter, block images', NEEDS, () => {
  const shared = sharedBlockRig();
  const { imageOf } = shared;

  async function start(): Promise<{ host: BlockHost; containerd: Containerd }> {
    const host = await startBlockHost(shared.rig, onTestFinished);
    const { socket } = host;
    const containerd = await Containerd.start(tempFolder(), { snapshotter: { socket } });
    return { host, containerd };
  }

  /** Layers of the image that containerd has downloaded. */
  async function layersIn(containerd: Containerd, host: BlockHost): Promise<readonly string[]> {
    const blobs = host.snapshotter
      .list([])
      .flatMap(({ labels }) => labels['containerd.io/snapshot/overlaybd/blob-digest'] ?? []);
    const content = await containerd.content();
    return blobs.filter((digest) => content.includes(digest));
  }

  async function remove(containerd: Containerd, host: BlockHost, tag: string): Promise<void> {
    await containerd.ctr(['images', 'rm', '--sync', imageOf(tag)]);
    await expectNothingIn(host);
  }

  it('ctr-remote pulls no layer, and containers share one device', async () => {
    const { host, containerd } = await start();
    await containerd.pullRemote(imageOf('block'));
    expect(await layersIn(containerd, host)).toEqual([]);
    const kinds = host.snapshotter.list([]).map(({ layer }) => layer.kind);
    expect(kinds).toEqual(['block', 'block', 'trace']);
    expect(host.devices.images.list()).toEqual([]);
    const script = 'touch /data/mine; busybox sha256sum /data/big; ls /data; head -1 /proc/mounts';
    const said = await containerd.run(imageOf('block'), newId(), ['sh', '-c', script]);
    expect(said).toContain(`${SUM}  /data/big\na.txt\nbig\nmine\noverlay / overlay rw,relatime,`);
    await Promise.all(
      Array.from({ length: 4 }, () =>
        containerd.runDetached(imageOf('block'), newId(), ['sleep', '1000']),
      ),
    );
    expect(host.devices.images.list()).toHaveLength(1);
    const active = host.snapshotter.list(['kind==active']).map(({ id }) => `snapshot-${id}`);
    expect(active.length).toBeGreaterThanOrEqual(4);
    expect(Object.values(host.devices.holders())[0]?.toSorted()).toEqual(active.toSorted());
    await containerd.clear();
    await remove(containerd, host, 'block');
  });

  it('plain ctr downloads the layers, and runs from them', async () => {
    const { host, containerd } = await start();
    await containerd.pull(imageOf('block'), ['--plain-http']);
    const kinds = host.snapshotter.list([]).map(({ layer }) => layer);
    expect(kinds).toMatchObject([
      ...[
        { kind: 'block', isLocal: true },
        { kind: 'block', isLocal: true },
      ],
      { kind: 'trace' },
    ]);
    const said = await containerd.run(imageOf('block'), newId(), [
      'busybox',
      'sha256sum',
      '/data/big',
    ]);
    expect(said).toBe(`${SUM}  /data/big\n`);
    await remove(containerd, host, 'block');
  });

  it('ordinary layers on top of a block image', async () => {
    const { host, containerd } = await start();
    await containerd.pullRemote(imageOf('mixed'));
    const kinds = host.snapshotter.list([]).map(({ layer }) => layer.kind);
    expect(kinds).toEqual(['block', 'block', 'trace', 'files']);
    expect(await layersIn(containerd, host)).toEqual([]);
    const script = 'cat /new /link; ls /; ls /data';
    const said = await containerd.run(imageOf('mixed'), newId(), ['sh', '-c', script]);
    expect(said.split('\n')).toEqual([
      ...['new', 'replaced', 'bin', 'data', 'dev', 'link', 'new', 'proc'],
      ...['run', 'sys', 'tmp', 'a.txt', 'big', ''],
    ]);
    await remove(containerd, host, 'mixed');
  });

  it('more ordinary layers than the options of a mount have room for', async () => {
    const host = await startBlockHost(shared.rig, onTestFinished, { stateName: 'x'.repeat(250) });
    const { socket } = host;
    const containerd = await Containerd.start(tempFolder(), { snapshotter: { socket } });
    await containerd.pullRemote(imageOf('many'));
    const said = await containerd.run(imageOf('many'), newId(), ['ls', '/many', '/data']);
    expect(said.split('\n')).toHaveLength(18);
    await containerd.ctr(['images', 'rm', '--sync', imageOf('many')]);
    expect(host.snapshotter.list([])).toEqual([]);
  });

  it('a view shows the image, read-only', async () => {
    const { host, containerd } = await start();
    const snapshots = (...args: readonly string[]): Promise<string> =>
      containerd.ctr(['snapshots', '--snapshotter', 'xylem', ...args]);
    for (const tag of ['block', 'mixed']) {
      await containerd.pullRemote(imageOf(tag));
      const top = host.snapshotter.list(['kind==committed']).at(-1)?.name.split('/').at(-1);
      const dir = tempFolder();
      await containerd.view('look', top ?? '');
      const command = await snapshots('mounts', dir, 'look');
      await run('sh', ['-c', command]);
      try {
        const { stdout } = await run('sha256sum', [join(dir, 'data', 'big')]);
        expect(stdout).toContain(SUM);
        await expect(run('touch', [join(dir, 'x')])).rejects.toThrow('Read-only file system');
        const [line = ''] = tracesOf(dir).mounts;
        expect(line).toContain(' rw,relatime - overlay overlay ro,');
      } finally {
        await run('umount', [dir]);
      }
      await snapshots('rm', 'look');
      await remove(containerd, host, tag);
    }
  });

  it('a pull fails at the first layer, with the reason', async () => {
    const { host, containerd } = await start();
    const digest = await pushBrokenImage(shared.rig);
    const pulled = containerd.pullRemote(`${shared.rig.registry}/team/broken:1`);
    await expect(pulled).rejects.toThrow(new RegExp(`${digest}[^\n]*not found`));
    expect(host.snapshotter.list([])).toEqual([]);
  });

  it('a container runs on while the snapshotter restarts, and its device stays held', async () => {
    const { host, containerd } = await start();
    await containerd.pullRemote(imageOf('block'));
    const id = newId();
    const script = 'while true; do cat /data/big > /dev/null || exit 3; echo 3 > /drop; done';
    await containerd.runDetached(imageOf('block'), id, ['sh', '-c', script]);
    const held = host.devices.holders();
    const again = await host.restart();
    expect(again.devices.holders()).toEqual(held);
    await containerd.restart('SIGKILL');
    const exec = ['tasks', 'exec', '--exec-id', 'x', id, 'busybox', 'sha256sum', '/data/big'];
    expect(await containerd.ctr(exec)).toContain(SUM);
    expect(await containerd.ctr(['tasks', 'ls'])).toMatch(new RegExp(`${id}.*RUNNING`));
    await containerd.clear();
    await remove(containerd, again, 'block');
  });
});
