import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  realpathSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { Digest } from '../../src/image/digest.ts';
import { findTarPayload } from '../../src/image/tar.ts';
import { encodeTrace } from '../../src/image/trace.ts';
import { silentLogger } from '../../src/runtime/logger.ts';
import { silentMetrics } from '../../src/runtime/metrics.ts';
import { NodeCodec } from '../../src/runtime/node/codec.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import type { SnapshotMount } from '../../src/snapshotter/catalog/mounts.ts';
import { Snapshotter } from '../../src/snapshotter/snapshotter.ts';
import { ManualClock } from '../kit/manual-clock.ts';
import { makeLayer } from '../kit/layers.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { FailingDevices, MemoryDevices } from './kit/memory-devices.ts';
import { MemoryWritable } from './kit/memory-writable.ts';
import { MemoryStore } from './kit/memory-store.ts';

const { signal } = new AbortController();
const sha256 = (text: string): Digest =>
  `sha256:${createHash('sha256').update(text).digest('hex')}` as Digest;
const code = (text: string) => ({ code: text });

interface Host {
  readonly folder: string;
  readonly store: MemoryStore;
  readonly devices: MemoryDevices;
  readonly writable: MemoryWritable;
  readonly snapshotter: Snapshotter;
  readonly clock: ManualClock;
}

/**
 * A host, or the same one after its process ended; with `bootId`, after a reboot too; with
 * `devices`, on those that are left.
 */
async function start(
  before?: Host,
  bootId = 'boot-1',
  devices = new MemoryDevices(join(before?.folder ?? tempFolder(), 'devices')),
): Promise<Host> {
  const { folder } = devices;
  const store = before?.store ?? new MemoryStore();
  const writable = new MemoryWritable();
  const clock = new ManualClock();
  const snapshotter = new Snapshotter(
    {
      ...{ devices, writable, store, hash: new NodeHash(), clock },
      ...{ logger: silentLogger, metrics: silentMetrics },
    },
    { stateDir: join(folder, 'state'), bootId, overlayOptions: ['index=off'] },
  );
  onTestFinished(() => snapshotter.stop());
  await snapshotter.start();
  return { folder, store, devices, writable, snapshotter, clock };
}

const idsIn = ({ folder }: Host): readonly string[] =>
  readdirSync(join(folder, 'state', 'snapshots')).sort();

const filesOf = ({ folder }: Host, id: number): string =>
  join(folder, 'state', 'snapshots', `${id}`, 'fs');

function lowersOf([mount]: readonly SnapshotMount[]): readonly string[] {
  const option = mount?.options.find((text) => text.startsWith('lowerdir='));
  return option?.slice('lowerdir='.length).split(':') ?? [];
}

const PREFIX = 'containerd.io/snapshot/overlaybd/';
const DIGESTS = ['1', '2', '3'].map(sha256);
const CHAIN_IDS = DIGESTS.reduce<string[]>((ids, digest) => {
  const below = ids.at(-1);
  return [...ids, below === undefined ? digest : sha256(`${below} ${digest}`)];
}, []);

function labelsOf(index: number, more: Readonly<Record<string, string>> = {}) {
  return {
    'containerd.io/snapshot.ref': CHAIN_IDS[index] ?? '',
    'containerd.io/snapshot/cri.image-ref': 'reg.example/app:1',
    [`${PREFIX}blob-digest`]: DIGESTS[index] ?? '',
    [`${PREFIX}blob-size`]: '1000',
    ...more,
  };
}

/** Asks for the layers of a block image; containerd is told that they are there. */
async function provide({ snapshotter }: Host, count = 3): Promise<string> {
  for (const index of Array.from({ length: count }).keys()) {
    const parent = CHAIN_IDS[index - 1] ?? '';
    const wanted = { key: `default/${index}/extract`, parent, labels: labelsOf(index) };
    await expect(snapshotter.prepare(wanted, signal)).rejects.toMatchObject(code('already-exists'));
  }
  return CHAIN_IDS[count - 1] ?? '';
}

const container = (key: string, parent: string) => ({ key, parent, labels: {} });

describe('Snapshotter, ordinary layers', () => {
  it('stacks folders; a commit keeps the files, a removal takes them', async () => {
    const host = await start();
    const { snapshotter } = host;
    const [bind] = await snapshotter.prepare(container('k1', ''), signal);
    expect(bind).toEqual({ type: 'bind', source: filesOf(host, 1), options: ['rw', 'rbind'] });
    writeFileSync(join(filesOf(host, 1), 'a'), 'x'.repeat(10_000));
    await snapshotter.commit({ name: 'base', key: 'k1', labels: { l: '1' } });
    expect(snapshotter.stat('base')).toMatchObject({
      ...{ kind: 'committed', labels: { l: '1' }, usage: { inodes: 2 } },
    });
    const mounts = await snapshotter.prepare(container('k2', 'base'), signal);
    expect(mounts).toEqual(await snapshotter.mounts('k2', signal));
    expect(lowersOf(mounts)).toEqual([filesOf(host, 1)]);
    expect(await snapshotter.view(container('v', 'base'), signal)).toEqual([
      { type: 'bind', source: filesOf(host, 1), options: ['ro', 'rbind'] },
    ]);
    await expect(snapshotter.remove('base')).rejects.toMatchObject(code('precondition'));
    await expect(snapshotter.mounts('base', signal)).rejects.toMatchObject(code('precondition'));
    await snapshotter.remove('k2');
    await snapshotter.remove('v');
    await snapshotter.remove('base');
    await snapshotter.cleanup();
    expect(idsIn(host)).toEqual([]);
    expect(readdirSync(join(host.folder, 'state', 'removed'))).toEqual([]);
    expect(snapshotter.list([])).toEqual([]);
    await expect(snapshotter.remove('base')).rejects.toMatchObject(code('not-found'));
    expect(host.devices.checked).toEqual([]);
  });

  it('gives the folder of a new snapshot the mode of the one below', async () => {
    const host = await start();
    await host.snapshotter.prepare(container('k1', ''), signal);
    chmodSync(filesOf(host, 1), 0o1777);
    await host.snapshotter.commit({ name: 'base', key: 'k1', labels: {} });
    await host.snapshotter.prepare(container('k2', 'base'), signal);
    expect(statSync(filesOf(host, 2)).mode & 0o7777).toBe(0o1777);
  });

  it('usage() counts blocks of the disk, and a file with two names once', async () => {
    const host = await start();
    await host.snapshotter.prepare(container('k', ''), signal);
    const files = filesOf(host, 1);
    mkdirSync(join(files, 'd'));
    writeFileSync(join(files, 'd', 'a'), Buffer.alloc(100_000, 1));
    linkSync(join(files, 'd', 'a'), join(files, 'b'));
    const blocks = ['', 'd', 'b'].map((name) => statSync(join(files, name)).blocks);
    const sizeBytes = 512 * blocks.reduce((a, b) => a + b);
    expect(await host.snapshotter.usage('k')).toEqual({ sizeBytes, inodes: 3 });
    await host.snapshotter.commit({ name: 'base', key: 'k', labels: {} });
    expect(await host.snapshotter.usage('base')).toEqual({ sizeBytes, inodes: 3 });
  });

  it('update() changes labels, list() filters by them', async () => {
    const { snapshotter } = await start();
    await snapshotter.prepare({ ...container('k', ''), labels: { a: '1' } }, signal);
    await snapshotter.prepare(container('l', ''), signal);
    const updated = await snapshotter.update({
      ...{ name: 'k', labels: { b: '2' }, paths: ['labels.b'] },
    });
    expect(updated.labels).toEqual({ a: '1', b: '2' });
    expect(snapshotter.list(['labels.b==2', 'name==x']).map(({ name }) => name)).toEqual(['k']);
  });

  it('start() removes folders without a record, and refuses one in use', async () => {
    const before = await start();
    await before.snapshotter.prepare(container('k', ''), signal);
    await expect(start(before)).rejects.toMatchObject(code('locked'));
    await before.snapshotter.stop();
    mkdirSync(filesOf(before, 77), { recursive: true });
    mkdirSync(join(before.folder, 'state', 'removed', '5', 'fs'), { recursive: true });
    const host = await start(before);
    await host.snapshotter.cleanup();
    expect(idsIn(host)).toEqual(['1']);
    expect(readdirSync(join(host.folder, 'state', 'removed'))).toEqual([]);
    expect(existsSync(filesOf(host, 1))).toBe(true);
  });

  it('a write that fails leaves nothing of a new snapshot', async () => {
    const host = await start();
    host.store.gate = () => Promise.reject(new Error('full'));
    const made = host.snapshotter.prepare(container('k', ''), signal);
    await expect(made).rejects.toMatchObject(code('metadata'));
    host.store.gate = () => Promise.resolve();
    await host.snapshotter.cleanup();
    expect(idsIn(host)).toEqual([]);
    await host.snapshotter.prepare(container('k', ''), signal);
    expect(host.snapshotter.stat('k').id).toBe(2);
  });

  it('refuses a folder that overlayfs cannot name', () => {
    for (const stateDir of ['/a:b', '/a,b', '/a\\b']) {
      const init = { stateDir, bootId: '', overlayOptions: [] };
      expect(() => new Snapshotter({ metrics: silentMetrics } as never, init)).toThrow('overlayfs');
    }
  });
});

describe('Snapshotter, block images', () => {
  it('commits layers at once, checks each, and holds one device for all', async () => {
    const host = await start();
    const { snapshotter, devices } = host;
    const image = await provide(host);
    const layers = DIGESTS.map((digest) => ({ digest, sizeBytes: 1000 }));
    expect(devices.checked).toEqual(
      [1, 2, 3].map((count) => ({
        ...{ chainId: CHAIN_IDS[count - 1], reference: 'reg.example/app:1' },
        layers: layers.slice(0, count),
      })),
    );
    expect(devices.holds.size).toBe(0);
    expect(idsIn(host)).toEqual([]);
    const filter = `labels."containerd.io/snapshot.ref"==${image},parent=="${CHAIN_IDS[1] ?? ''}"`;
    expect(snapshotter.list([filter])).toMatchObject([{ name: image, kind: 'committed' }]);
    expect(await snapshotter.usage(image)).toEqual({ sizeBytes: 0, inodes: 0 });
    const mounts = await snapshotter.prepare(container('c1', image), signal);
    const dir = join(host.folder, 'devices', image.replace(':', '-'));
    expect(lowersOf(mounts)).toEqual([dir]);
    await snapshotter.view(container('v1', image), signal);
    const [c1, v1] = ['c1', 'v1'].map((key) => snapshotter.stat(key).id);
    expect([...devices.holds]).toEqual([
      [`snapshot-${c1}`, image],
      [`snapshot-${v1}`, image],
    ]);
    await snapshotter.mounts('c1', signal);
    await snapshotter.remove('v1');
    expect(devices.holds.size).toBe(1);
    await snapshotter.commit({ name: 'saved', key: 'c1', labels: {} });
    const upper = await snapshotter.prepare(container('c2', 'saved'), signal);
    expect(lowersOf(upper).map((path) => realpathSync(path))).toEqual([
      ...[filesOf(host, c1 ?? 0), dir],
    ]);
    await snapshotter.remove('c2');
    // The layer holds the device for a while, for the next one on top of it.
    expect([...devices.holds.keys()]).toEqual([`snapshot-${c1}`]);
    host.clock.advance(10_000);
    expect(devices.holds.size).toBe(0);
    await snapshotter.prepare(container('c3', image), signal);
    await snapshotter.commit({ name: 'again', key: 'c3', labels: {} });
    expect(devices.holds.size).toBe(1);
    await snapshotter.remove('again');
    expect(devices.holds.size).toBe(0);
    expect(host.clock.delays).toEqual([]);
  });

  it('checks what says that it is a trace, for it is left out of the device', async () => {
    const host = await start();
    await provide(host, 2);
    const labels = labelsOf(2, { [`${PREFIX}acceleration-layer`]: 'yes' });
    const wanted = { key: 'k', parent: CHAIN_IDS[1] ?? '', labels };
    const made = host.snapshotter.prepare(wanted, signal);
    await expect(made).rejects.toMatchObject(code('already-exists'));
    expect(host.devices.traces).toEqual([DIGESTS[2]]);
    expect(host.devices.checked).toHaveLength(2);
  });

  it('an image that cannot be read fails at its first layer, with the reason', async () => {
    const host = await start();
    host.devices.gate = () =>
      Promise.reject(
        new FailingDevices('no rights to reg.example/app', { code: 'not-authorized' }),
      );
    const wanted = { key: 'k', parent: '', labels: labelsOf(0) };
    const made = host.snapshotter.prepare(wanted, signal);
    await expect(made).rejects.toMatchObject(code('not-authorized'));
    expect(host.snapshotter.list([])).toEqual([]);
  });

  it('a device that cannot be mounted leaves no snapshot', async () => {
    const host = await start();
    const image = await provide(host);
    host.devices.gate = () => Promise.reject(new FailingDevices('gone', { code: 'unreachable' }));
    const made = host.snapshotter.prepare(container('c', image), signal);
    await expect(made).rejects.toMatchObject(code('unreachable'));
    await host.snapshotter.cleanup();
    expect(idsIn(host)).toEqual([]);
    expect(host.snapshotter.list(['kind==active'])).toEqual([]);
  });

  it('a client that gives up, and a removal meanwhile, leave no hold', async () => {
    const host = await start();
    const { snapshotter, devices } = host;
    const image = await provide(host);
    const gate = Promise.withResolvers<void>();
    devices.gate = () => gate.promise;
    const giving = new AbortController();
    const given = snapshotter.prepare(container('c1', image), giving.signal);
    const removed = snapshotter.prepare(container('c2', image), signal);
    const refused = [
      expect(given).rejects.toThrow(),
      expect(removed).rejects.toMatchObject(code('not-found')),
    ];
    giving.abort();
    await snapshotter.remove('c2');
    gate.resolve();
    await Promise.all(refused);
    expect(devices.holds.size).toBe(0);
    expect(snapshotter.list(['kind==active'])).toEqual([]);
  });

  it('two clients that ask for the same layer are told the same', async () => {
    const host = await start();
    await Promise.all([provide(host, 1), provide(host, 1)]);
    expect(host.snapshotter.list([])).toHaveLength(1);
  });

  it('a restart holds the devices of open snapshots again before the first call', async () => {
    const before = await start();
    const image = await provide(before);
    await before.snapshotter.prepare(container('c', image), signal);
    await before.snapshotter.prepare(container('d', ''), signal);
    await before.snapshotter.stop();
    const left = new MemoryDevices(join(before.folder, 'devices'));
    left.left.add(image);
    const host = await start(before, 'boot-1', left);
    const { id } = host.snapshotter.stat('c');
    expect([...host.devices.holds]).toEqual([[`snapshot-${id}`, image]]);
  });

  it('a restart waits for no device that does not come back, nor does another device', async () => {
    const before = await start();
    const [first, second] = [await provide(before, 1), await provide(before, 2)];
    await before.snapshotter.prepare(container('a', first), signal);
    await before.snapshotter.prepare(container('b', second), signal);
    await before.snapshotter.stop();
    const devices = new MemoryDevices(join(before.folder, 'devices'));
    const gate = Promise.withResolvers<void>();
    devices.gate = ({ chainId }) => (chainId === first ? gate.promise : Promise.resolve());
    const { snapshotter } = await start(before, 'boot-1', devices);
    await snapshotter.mounts('b', signal);
    await snapshotter.prepare(container('c', second), signal);
    expect([...devices.holds.values()]).toEqual([second, second]);
    gate.resolve();
    await snapshotter.heldAgain;
    expect([...devices.holds.values()]).toEqual([second, second, first]);
  });

  it('after a reboot, a device is mounted when its snapshot is', async () => {
    const before = await start();
    const image = await provide(before);
    await before.snapshotter.prepare(container('c', image), signal);
    await before.snapshotter.stop();
    const rebooted = await start(before, 'boot-2');
    expect(rebooted.devices.holds.size).toBe(0);
    await rebooted.snapshotter.mounts('c', signal);
    expect(rebooted.devices.holds.size).toBe(1);
    await rebooted.snapshotter.stop();
    const again = await start(rebooted, 'boot-2');
    await again.snapshotter.heldAgain;
    expect(again.devices.holds.size).toBe(1);
  });

  it('takes layers that containerd downloaded from their files, without any label', async () => {
    const host = await start();
    const { snapshotter, devices } = host;
    const trace = encodeTrace([], new NodeCodec());
    const layer = await makeLayer({ virtualSizeBytes: 4096, ranges: [] });
    const { offset, sizeBytes } = await findTarPayload({
      sizeBytes: layer.length,
      read: async (at, length) => layer.subarray(at, at + length),
    });
    const contents = [
      { 'overlaybd.commit': layer.subarray(offset, offset + sizeBytes) },
      { trace },
      { trace: Buffer.from('no trace'), 'overlaybd.commit': 'no layer' },
    ];
    const names = ['default/1/a', 'default/2/b', 'default/3/c'];
    for (const [i, content] of contents.entries()) {
      await snapshotter.prepare(container(`k${i}`, names[i - 1] ?? ''), signal);
      for (const [name, bytes] of Object.entries(content)) {
        writeFileSync(join(filesOf(host, snapshotter.stat(`k${i}`).id), name), bytes);
      }
      await snapshotter.commit({ name: names[i] ?? '', key: `k${i}`, labels: {} });
    }
    const kinds = names.map((name) => snapshotter.stat(name).layer.kind);
    expect(kinds).toEqual(['block', 'trace', 'files']);
    let held: unknown;
    devices.gate = async (chain) => void (held = chain);
    const mounts = await snapshotter.prepare(container('c', names[2] ?? ''), signal);
    const [first, , third] = names.map((name) => filesOf(host, snapshotter.stat(name).id));
    const chainId = sha256(names[0] ?? '');
    expect(held).toEqual({
      ...{ chainId, reference: '' },
      layers: [{ digest: chainId, sizeBytes, file: join(first ?? '', 'overlaybd.commit') }],
    });
    expect(lowersOf(mounts)).toEqual([
      third,
      join(host.folder, 'state', 'snapshots', `${snapshotter.stat('c').id}`, 'device'),
    ]);
    expect(realpathSync(lowersOf(mounts)[1] ?? '')).toBe(
      join(host.folder, 'devices', chainId.replace(':', '-')),
    );
  });
});

const WRITABLE = 'containerd.io/snapshot/overlaybd.writable';

describe('Snapshotter, writable devices', () => {
  const writable = (key: string, parent: string, mode = 'dir') => ({
    ...container(key, parent),
    labels: { [WRITABLE]: mode },
  });

  it('gives a container the device of its own, and ends it with the snapshot', async () => {
    const host = await start();
    const { snapshotter } = host;
    const parent = await provide(host);
    const dir = await snapshotter.prepare(writable('dir', parent), signal);
    expect(dir).toEqual([{ type: 'bind', source: '/roots/snapshot-4', options: ['rw', 'rbind'] }]);
    const dev = await snapshotter.prepare(writable('dev', parent, 'dev'), signal);
    expect(dev).toEqual([{ type: 'ext4', source: '/dev/loop7', options: ['rw', 'discard'] }]);
    expect(await snapshotter.mounts('dev', signal)).toEqual(dev);
    expect(host.writable.held.get('snapshot-4')).toEqual({
      ...{ folder: filesOf(host, 4), mode: 'dir', chainId: CHAIN_IDS[2] },
    });
    expect((await snapshotter.usage('dir')).sizeBytes).toBeGreaterThanOrEqual(8_192);
    await snapshotter.update({ name: 'dir', labels: {}, paths: [] });
    expect(await snapshotter.mounts('dir', signal)).toEqual(dir);
    await snapshotter.remove('dir');
    await snapshotter.remove('dev');
    expect([...host.writable.held.keys()]).toEqual([]);
    expect(host.devices.holds.size).toBe(0);
  });

  it('holds it again after a restart', async () => {
    const host = await start();
    const mounts = await host.snapshotter.prepare(writable('c', await provide(host)), signal);
    await host.snapshotter.stop();
    const next = await start(host);
    await next.snapshotter.heldAgain;
    expect([...next.writable.held.keys()]).toEqual(['snapshot-4']);
    expect(await next.snapshotter.mounts('c', signal)).toEqual(mounts);
  });

  it('other values, views, ordinary images and layers of a pull change nothing', async () => {
    const host = await start();
    const { snapshotter } = host;
    const parent = await provide(host);
    const [other] = await snapshotter.prepare(writable('other', parent, 'overlayfs'), signal);
    expect(other?.type).toBe('overlay');
    const [view] = await snapshotter.view(writable('view', parent), signal);
    expect(view?.type).toBe('overlay');
    await snapshotter.prepare(container('files', parent), signal);
    await snapshotter.commit({ name: 'above', key: 'files', labels: {} });
    const [mixed] = await snapshotter.prepare(writable('mixed', 'above'), signal);
    expect(mixed?.type).toBe('overlay');
    const pulled = { 'containerd.io/snapshot.ref': sha256('x'), [WRITABLE]: 'dir' };
    const [pull] = await snapshotter.prepare({ ...container('p', ''), labels: pulled }, signal);
    expect(pull?.type).toBe('bind');
    expect(host.writable.held.size).toBe(0);
  });

  it('a commit makes a block layer of it, on which others lie', async () => {
    const host = await start();
    const { snapshotter } = host;
    const parent = await provide(host);
    await snapshotter.prepare(writable('c', parent), signal);
    await snapshotter.commit({ name: 'done', key: 'c', labels: { mine: '1' } });
    const path = join(filesOf(host, 4), 'overlaybd.commit');
    const digest = sha256('a layer');
    expect(snapshotter.stat('done')).toMatchObject({
      ...{ kind: 'committed', parent, usage: { sizeBytes: 7, inodes: 1 } },
      layer: { kind: 'block', isLocal: true, sizeBytes: 7 },
      labels: {
        ...{ mine: '1', [`${PREFIX}blob-digest`]: digest, [`${PREFIX}blob-size`]: '7' },
        [`${PREFIX}version`]: '0.1.0',
        'containerd.io/snapshot/overlaybd.localcommitpath': path,
      },
    });
    expect(readdirSync(filesOf(host, 4))).toEqual(['overlaybd.commit']);
    await snapshotter.prepare(writable('next', 'done'), signal);
    const { chainId } = host.writable.held.get('snapshot-5') ?? {};
    await snapshotter.prepare(container('plain', 'done'), signal);
    expect(host.devices.holds.get('snapshot-6')).toBe(chainId);
    // The same name again is another device.
    for (const name of ['next', 'plain', 'done']) await snapshotter.remove(name);
    await snapshotter.prepare(writable('c', parent), signal);
    await snapshotter.commit({ name: 'done', key: 'c', labels: {} });
    await snapshotter.prepare(container('plain', 'done'), signal);
    expect(host.devices.holds.get('snapshot-8')).not.toBe(chainId);
  });

  it('a commit that is refused, or fails, changes nothing', async () => {
    const host = await start();
    const { snapshotter } = host;
    const parent = await provide(host);
    const before = await snapshotter.prepare(writable('c', parent), signal);
    const commit = (name: string) => snapshotter.commit({ name, key: 'c', labels: {} });
    await expect(commit(parent)).rejects.toMatchObject(code('already-exists'));
    host.writable.gate = () => Promise.reject(new FailingDevices('in use', { code: 'busy' }));
    await expect(commit('done')).rejects.toMatchObject(code('busy'));
    const { promise, resolve } = Promise.withResolvers<void>();
    host.writable.gate = () => promise;
    const committing = commit('done');
    await expect(snapshotter.mounts('c', signal)).rejects.toMatchObject(code('precondition'));
    await expect(commit('other')).rejects.toMatchObject(code('precondition'));
    host.store.gate = () => Promise.reject(new Error('the disk is full'));
    resolve();
    await expect(committing).rejects.toThrow('the disk is full');
    host.store.gate = () => Promise.resolve();
    expect(await snapshotter.mounts('c', signal)).toEqual(before);
    expect(existsSync(join(filesOf(host, 4), 'data'))).toBe(true);
  });

  it('start() removes what a killed process left of a commit', async () => {
    const host = await start();
    const parent = await provide(host);
    await host.snapshotter.prepare(writable('c', parent), signal);
    host.writable.clear = () => Promise.resolve();
    await host.snapshotter.commit({ name: 'done', key: 'c', labels: {} });
    expect(readdirSync(filesOf(host, 4))).toEqual(['data', 'overlaybd.commit']);
    await host.snapshotter.stop();
    await start(host);
    expect(readdirSync(filesOf(host, 4))).toEqual(['overlaybd.commit']);
  });
});
