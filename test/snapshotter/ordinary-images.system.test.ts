import { execFile } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { beforeAll, expect, it } from 'vitest';
import { makeBusyboxImage } from '../kit/block-image.ts';
import { Containerd } from '../kit/containerd.ts';
import { startDockerRegistry } from '../kit/docker-registry.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { atEndOfAll, tempFolder } from '../kit/temp-folder.ts';
import { startSnapshotter, type ServedSnapshotter } from './kit/served-snapshotter.ts';

const run = promisify(execFile);

const NEEDS = [
  needs.root,
  ...['containerd', 'runc', 'docker-registry', 'skopeo'].map((name) => needs.program(name)),
];

const PLAIN = ['--plain-http'];

let count = 0;

/** The id of a container; all of a host have different ones. */
const newId = (): string => `xylem-test-${process.pid}-${++count}`;

describeWith('Snapshotter, ordinary images', NEEDS, () => {
  const atEnd = atEndOfAll();
  let image = '';

  beforeAll(async () => {
    const registry = await startDockerRegistry({}, atEnd);
    const layout = await makeBusyboxImage(tempFolder(atEnd), { 'a.txt': Buffer.from('data\n') });
    image = `${registry}/team/app:plain`;
    const args = ['--insecure-policy', 'copy', '--dest-tls-verify=false'];
    await run('skopeo', [...args, `oci:${layout}:plain`, `docker://${image}`]);
  });

  async function start() {
    const served = await startSnapshotter();
    const { socket } = served;
    const containerd = await Containerd.start(tempFolder(), { snapshotter: { socket } });
    const snapshots = (...args: readonly string[]): Promise<string> =>
      containerd.ctr(['snapshots', '--snapshotter', 'xylem', ...args]);
    return { served, containerd, snapshots };
  }

  /** Removes the image; nothing is left then. */
  async function expectGone(containerd: Containerd, { folder, snapshotter }: ServedSnapshotter) {
    await containerd.ctr(['images', 'rm', '--sync', image]);
    expect(snapshotter.list([])).toEqual([]);
    expect(readdirSync(join(folder, 'snapshots'))).toEqual([]);
  }

  it('containerd pulls, runs and removes an image', async () => {
    const { served, containerd, snapshots } = await start();
    await containerd.pull(image, PLAIN);
    const script = 'cat /data/a.txt; mkdir /new; touch /new/file; id -u; ls /new';
    const said = await containerd.run(image, newId(), ['sh', '-c', script]);
    expect(said).toBe('data\n0\nfile\n');
    // Another container sees nothing of the first.
    expect(await containerd.run(image, newId(), ['ls', '/data'])).toBe('a.txt\n');
    const layers = served.snapshotter.list(['kind==committed']);
    expect(layers.map(({ usage }) => usage.inodes)).toEqual([14, 3]);
    expect(await snapshots('usage')).toContain('1.9 MiB');
    await expectGone(containerd, served);
  });

  it('ctr shows, labels, commits and views snapshots', async () => {
    const { served, containerd, snapshots } = await start();
    await containerd.pull(image, PLAIN);
    const top = served.snapshotter.list(['kind==committed']).at(-1)?.name.split('/').at(-1) ?? '';
    expect(await snapshots('prepare', 'work', top)).toBe('');
    expect(await snapshots('mounts', '/somewhere', 'work')).toMatch(
      /^mount -t overlay overlay \/somewhere -o index=off,workdir=.*,upperdir=.*,lowerdir=.*:.*\n$/,
    );
    await snapshots('label', 'work', 'containerd.io/gc.root=now', 'a=b');
    expect(JSON.parse(await snapshots('info', 'work'))).toMatchObject({
      ...{ Kind: 'Active', Parent: top, Labels: { a: 'b' } },
    });
    await snapshots('commit', 'saved', 'work');
    await containerd.view('look', 'saved');
    expect(await snapshots('mounts', '/x', 'look')).toMatch(
      /^mount -t overlay overlay \/x -o index=off,lowerdir=[^,]*:[^,]*:[^,]*\n$/,
    );
    await expect(snapshots('rm', top)).rejects.toThrow('cannot remove snapshot with child');
    await expect(snapshots('info', 'none')).rejects.toThrow('not found');
    for (const name of ['look', 'saved']) await snapshots('rm', name);
    await expectGone(containerd, served);
  });

  it('two namespaces, and restarts of containerd and of the snapshotter', async () => {
    const { served, containerd } = await start();
    await containerd.pull(image, PLAIN);
    const other = ['images', 'pull', ...PLAIN, '--snapshotter', 'xylem', image];
    await containerd.ctr(other, { namespace: 'other' });
    const id = newId();
    const script = 'echo kept > /file; while true; do sleep 1; done';
    await containerd.runDetached(image, id, ['sh', '-c', script]);
    await served.stop();
    await expect(containerd.run(image, newId(), ['ls'])).rejects.toThrow('snapshotter.sock');
    const again = await startSnapshotter({ folder: served.folder });
    await containerd.restart('SIGKILL');
    const exec = ['tasks', 'exec', '--exec-id', 'x', id, 'cat', '/file', '/data/a.txt'];
    expect(await containerd.ctr(exec)).toBe('kept\ndata\n');
    expect(await containerd.run(image, newId(), ['cat', '/data/a.txt'])).toBe('data\n');
    await containerd.clear();
    await containerd.ctr(['images', 'rm', '--sync', image], { namespace: 'other' });
    await expectGone(containerd, again);
  });

  it('a pull says why it failed when the disk is full', async () => {
    const { served, containerd } = await start();
    const full = tempFolder();
    await run('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', full]);
    try {
      await run('mount', ['--bind', full, join(served.folder, 'snapshots')]);
      try {
        await expect(containerd.pull(image, PLAIN)).rejects.toThrow('no space left on device');
        await containerd.ctr(['images', 'rm', '--sync', image]).catch(() => {});
      } finally {
        await run('umount', [join(served.folder, 'snapshots')]);
      }
    } finally {
      await run('umount', [full]);
    }
  });
});
