import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import type { Digest } from '../../../src/image/digest.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { chainOf, lowerOf } from '../../../src/snapshotter/catalog/device-chain.ts';
import { mountsOf } from '../../../src/snapshotter/catalog/mounts.ts';
import { localLayerOf, remoteLayerOf } from '../../../src/snapshotter/catalog/new-layer.ts';
import type { Labels, SnapshotRecord } from '../../../src/snapshotter/catalog/snapshot.ts';
import { record } from '../kit/records.ts';

const hash = new NodeHash();
const sha256 = (text: string): Digest =>
  `sha256:${createHash('sha256').update(text).digest('hex')}` as Digest;

const PREFIX = 'containerd.io/snapshot/overlaybd/';
const [A, B, T] = ['a', 'b', 'trace'].map(sha256) as [Digest, Digest, Digest];
const AB = sha256(`${A} ${B}`);
const ABT = sha256(`${AB} ${T}`);
const IMAGE = { 'containerd.io/snapshot/cri.image-ref': 'reg.example/app:1' };

function blockLabels(digest: Digest, target: string, more: Labels = IMAGE): Labels {
  return {
    'containerd.io/snapshot.ref': target,
    [`${PREFIX}blob-digest`]: digest,
    [`${PREFIX}blob-size`]: '1000',
    ...more,
  };
}

const TRACE = { [`${PREFIX}acceleration-layer`]: 'yes' };
const block = (digest: Digest, chainId: string, isLocal = false) =>
  ({ kind: 'block', chainId, digest, sizeBytes: 1000, isLocal }) as const;

const bottom = record({ id: 1, name: A, layer: block(A, A), labels: blockLabels(A, A) });
const second = record({
  ...{ id: 2, name: AB, parent: A, layer: block(B, AB), labels: blockLabels(B, AB) },
});
const trace = record({ id: 3, name: ABT, parent: AB, layer: { kind: 'trace', chainId: ABT } });
const files = record({ id: 4, name: 'files', parent: ABT });
const fileOf = ({ id }: Pick<SnapshotRecord, 'id'>): string => `/files/${id}`;

describe('remoteLayerOf()', () => {
  const remote = (labels: Labels, below: readonly SnapshotRecord[] = []) =>
    remoteLayerOf({ hash }, labels, below);

  it('takes layers of a block image from the bottom up, and its trace', () => {
    expect(remote(blockLabels(A, A))).toEqual(block(A, A));
    expect(remote(blockLabels(B, AB), [bottom])).toEqual(block(B, AB));
    const labels = blockLabels(T, ABT, { ...IMAGE, ...TRACE });
    expect(remote(labels, [second, bottom])).toEqual({ kind: 'trace', chainId: ABT });
  });

  it.each([
    'containerd.io/snapshot/cri.image-ref',
    'containerd.io/snapshot/remote/stargz.reference',
    'containerd.io/snapshot/image-ref',
  ])('takes the image from %s', (key) => {
    expect(remote(blockLabels(A, A, { [key]: 'reg.example/app:1' }))).toEqual(block(A, A));
  });

  it('leaves the rest to containerd', () => {
    const rest: [string, Labels, (readonly SnapshotRecord[])?][] = [
      ['no image', blockLabels(A, A, {})],
      ['a container', { ...blockLabels(A, A), 'containerd.io/snapshot.ref': '' }],
      ['an ordinary layer', { 'containerd.io/snapshot.ref': A, ...IMAGE }],
      ['no digest', { ...blockLabels(A, A), [`${PREFIX}blob-digest`]: 'md5:1' }],
      ['no size', { ...blockLabels(A, A), [`${PREFIX}blob-size`]: '-1' }],
      ['a size of no blob', { ...blockLabels(A, A), [`${PREFIX}blob-size`]: '9'.repeat(16) }],
      ['on ordinary layers', blockLabels(B, sha256(`files ${B}`)), [files, trace, second, bottom]],
    ];
    for (const [why, labels, below] of rest) expect(remote(labels, below), why).toBeUndefined();
  });

  it('refuses a file system that is not mounted, and no mixture of those that are', () => {
    const of = (type: string) => ({ ...IMAGE, [`${PREFIX}blob-fs-type`]: type });
    expect(() => remote(blockLabels(A, A, of('xfs')))).toThrow('holds xfs');
    const erofs = { ...bottom, labels: of('erofs') };
    expect(remote(blockLabels(B, AB, of('ext4')), [erofs])).toEqual(block(B, AB));
    const chain = chainOf([{ ...second, labels: of('ext4') }, erofs], fileOf);
    expect(chain).toMatchObject({ chainId: AB, reference: 'reg.example/app:1' });
  });

  it('refuses blobs under the chain id of others', () => {
    expect(remote(blockLabels(B, A))).toBeUndefined();
    expect(remote(blockLabels(B, AB))).toBeUndefined();
    expect(remote(blockLabels(A, AB), [bottom])).toBeUndefined();
  });
});

describe('localLayerOf()', () => {
  const local = (name: string, kind: 'files' | 'block' | 'trace', below = [second, bottom]) => {
    const unpacked = kind === 'block' ? { kind, sizeBytes: 1000 } : { kind };
    return localLayerOf({ hash }, { name, unpacked }, below);
  };

  it('gives layers that were downloaded a name of their own', () => {
    const name = 'default/5/sha256:0';
    expect(local(name, 'block', [])).toEqual(block(sha256(name), sha256(name), true));
    expect(local(name, 'trace')).toEqual({ kind: 'trace', chainId: sha256(name) });
    expect(local(name, 'files')).toEqual({ kind: 'files' });
    expect(local(name, 'files', [files])).toEqual({ kind: 'files' });
  });

  it('refuses one on top of ordinary layers', () => {
    expect(() => local('x', 'block', [files])).toThrow('on top of ordinary');
  });
});

describe('lowerOf()', () => {
  it('names the device under a container, without its trace', () => {
    const chain = {
      chainId: AB,
      reference: 'reg.example/app:1',
      layers: [A, B].map((digest) => ({ digest, sizeBytes: 1000 })),
    };
    expect(lowerOf([trace, second, bottom], fileOf)).toEqual({ folders: [], chain });
    expect(lowerOf([files, trace, second, bottom], fileOf)).toEqual({ folders: [files], chain });
    expect(lowerOf([second, bottom], fileOf)).toEqual({ folders: [], chain });
  });

  it('has folders alone for ordinary images, and nothing for none', () => {
    const base = record({ name: 'base' });
    expect(lowerOf([files, base], fileOf)).toEqual({ folders: [files, base], chain: undefined });
    expect(lowerOf([], fileOf)).toEqual({ folders: [], chain: undefined });
    const alone = record({ name: 'x', layer: { kind: 'trace', chainId: 'x' } });
    expect(lowerOf([alone], fileOf)).toEqual({ folders: [], chain: undefined });
  });

  it('refuses files below a device', () => {
    expect(() => lowerOf([second, files], fileOf)).toThrow('on top of it');
  });
});

describe('chainOf()', () => {
  it('names the files of layers that were downloaded', () => {
    const local = record({ ...second, layer: block(B, AB, true), labels: {} });
    expect(chainOf([local, bottom], fileOf)).toMatchObject({
      reference: 'reg.example/app:1',
      layers: [{ digest: A }, { digest: B, file: '/files/2' }],
    });
    expect(chainOf([{ ...local, id: 7 }], fileOf)?.reference).toBe('');
  });

  it('knows the manifest from labels', () => {
    const labels = {
      ...blockLabels(A, A),
      'containerd.io/snapshot/cri.manifest-digest': B,
    };
    expect(chainOf([{ ...bottom, labels }], fileOf)).toMatchObject({ manifestDigest: B });
  });
});

describe('mountsOf()', () => {
  const own = { files: '/s/9/fs', work: '/s/9/work' };
  const mounts = (kind: 'active' | 'view', folders: readonly string[], deviceDir?: string) =>
    mountsOf(kind, own, { folders, deviceDir }, ['index=off']);
  const overlay = (...options: readonly string[]) => [
    { type: 'overlay', source: 'overlay', options: ['index=off', ...options] },
  ];
  const upper = ['workdir=/s/9/work', 'upperdir=/s/9/fs'];

  it('binds a snapshot without parents', () => {
    const bind = { type: 'bind', source: '/s/9/fs' };
    expect(mounts('active', [])).toEqual([{ ...bind, options: ['rw', 'rbind'] }]);
    expect(mounts('view', [])).toEqual([{ ...bind, options: ['ro', 'rbind'] }]);
  });

  it('stacks folders, and the device below all of them', () => {
    expect(mounts('active', ['/b', '/a'])).toEqual(overlay(...upper, 'lowerdir=/b:/a'));
    expect(mounts('active', [], '/dev')).toEqual(overlay(...upper, 'lowerdir=/dev'));
    expect(mounts('active', ['/b'], '/dev')).toEqual(overlay(...upper, 'lowerdir=/b:/dev'));
  });

  it('shows views read-only, and never binds a device', () => {
    expect(mounts('view', ['/a'])).toEqual([
      { type: 'bind', source: '/a', options: ['ro', 'rbind'] },
    ]);
    expect(mounts('view', ['/b', '/a'])).toEqual(overlay('lowerdir=/b:/a'));
    expect(mounts('view', ['/b'], '/dev')).toEqual(overlay('lowerdir=/b:/dev'));
    expect(mounts('view', [], '/dev')).toEqual(overlay('lowerdir=/s/9/fs:/dev'));
  });
});
