import { describe, expect, it } from 'vitest';
import { OriginalTree } from '../../../src/convert/check/original-tree.ts';
import { readTar } from '../../../src/convert/tar/read-tar.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { factsOfTree } from '../../kit/file-trees.ts';
import { bytesOf, END, joined, member, pax, type HeaderFields } from '../../kit/tar-encoder.ts';

const hash = new NodeHash();

const file = (path: string, fields: HeaderFields = {}, content = path): Uint8Array =>
  member({ path, ...fields }, bytesOf(content));
const directory = (path: string, fields: HeaderFields = {}): Uint8Array =>
  member({ path, type: '5', mode: 0o755, ...fields });
const symlink = (path: string, linkTarget: string): Uint8Array =>
  member({ path, type: '2', linkTarget });
const hardlink = (path: string, linkTarget: string, fields: HeaderFields = {}): Uint8Array =>
  member({ path, type: '1', linkTarget, ...fields });

async function* chunks(...members: readonly Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield joined(...members, END);
}

async function treeOf(...layers: readonly (readonly Uint8Array[])[]): Promise<OriginalTree> {
  const tree = new OriginalTree({ hash });
  for (const layer of layers) await tree.addLayer(readTar(chunks(...layer)));
  return tree;
}

/** Paths, those of directories with a slash, those of links with their targets. */
async function pathsOf(...layers: readonly (readonly Uint8Array[])[]): Promise<readonly string[]> {
  const facts = factsOfTree(await treeOf(...layers));
  return Object.entries(facts)
    .filter(([path]) => path !== '')
    .map(([path, { type, target }]) => {
      if (type === 'symlink') return `${path} -> ${target}`;
      return type === 'directory' ? `${path}/` : path;
    });
}

describe('OriginalTree', () => {
  it('makes missing directories with mode 0755, of root, without a time', async () => {
    const facts = factsOfTree(await treeOf([file('a/b/c', { mode: 0o600, uid: 5, mtime: 9 })]));
    const implied = { type: 'directory', mode: 0o755, uid: 0, gid: 0, mtime: '0.000000000' };
    expect(facts['/a']).toMatchObject(implied);
    expect(facts['/a/b']).toMatchObject(implied);
    expect(facts['/a/b/c']).toMatchObject({ mode: 0o600, uid: 5, mtime: '9.000000000', size: 5 });
  });

  it.each([
    ['../../x', ['/x']],
    ['/../x', ['/x']],
    ['./x/../y', ['/y']],
    ['x//y/./z', ['/x/', '/x/y/', '/x/y/z']],
  ])('cleans the path %s', async (path, wanted) => {
    expect(await pathsOf([file(path)])).toEqual(wanted);
  });

  it('cleans paths as text, before links are followed', async () => {
    const layer = [directory('d/e'), symlink('l', 'd/e'), file('l/../f')];
    expect(await pathsOf(layer)).toEqual(['/d/', '/d/e/', '/f', '/l -> d/e']);
  });

  it.each([
    ['d/e', ['/d/', '/d/e/', '/d/e/f']],
    ['/d/e', ['/d/', '/d/e/', '/d/e/f']],
    ['../../../d/e', ['/d/', '/d/e/', '/d/e/f']],
    ['d/../missing', ['/d/', '/d/e/', '/missing/', '/missing/f']],
  ])('follows a link to %s within the root', async (target, wanted) => {
    const paths = await pathsOf([directory('d/e'), symlink('l', target)], [file('l/f')]);
    expect(paths.filter((path) => !path.startsWith('/l '))).toEqual(wanted);
  });

  it('replaces the last name, also a link', async () => {
    expect(
      await pathsOf([directory('d'), symlink('l', 'd')], [directory('l'), file('l/x')]),
    ).toEqual(['/d/', '/l/', '/l/x']);
    expect(await pathsOf([file('d/x')], [file('d')])).toEqual(['/d']);
    expect(await pathsOf([file('d')], [directory('d'), file('d/x')])).toEqual(['/d/', '/d/x']);
  });

  it('changes a directory that an entry describes again, and leaves what is in it', async () => {
    const tree = await treeOf(
      [pax([['SCHILY.xattr.user.a', '1']]), directory('d'), file('d/x')],
      [directory('d', { mode: 0o700, uid: 7, mtime: 3 })],
    );
    const facts = factsOfTree(tree);
    expect(facts['/d']).toMatchObject({ mode: 0o700, uid: 7, attributes: {} });
    expect(facts['/d/x']).toBeDefined();
  });

  it('leaves a directory as it was when only something in it changes', async () => {
    const facts = factsOfTree(
      await treeOf([directory('d', { mode: 0o711, mtime: 77 })], [file('d/x', { mtime: 99 })]),
    );
    expect(facts['/d']).toMatchObject({ mode: 0o711, mtime: '77.000000000' });
  });

  it('hides files and directories of lower layers', async () => {
    const lower = [file('a'), file('d/x'), file('d/y'), file('e/z')];
    const upper = [file('.wh.a', {}, ''), file('.wh.d', {}, ''), file('e/.wh.none', {}, '')];
    expect(await pathsOf(lower, upper)).toEqual(['/e/', '/e/z']);
  });

  it.each([
    ['behind', [file('d/new'), file('a', {}, 'new'), file('.wh.d', {}, ''), file('.wh.a', {}, '')]],
    ['before', [file('.wh.d', {}, ''), file('.wh.a', {}, ''), file('d/new'), file('a', {}, 'new')]],
  ])('hides lower layers alone with whiteouts %s the entries', async (_, upper) => {
    const lower = [directory('d', { mode: 0o700, mtime: 5 }), file('d/old'), file('a')];
    expect(await pathsOf(lower, upper)).toEqual(['/a', '/d/', '/d/new']);
    const facts = factsOfTree(await treeOf(lower, upper));
    expect(facts['/d']).toMatchObject({ mode: 0o755, mtime: '0.000000000' });
    expect(facts['/a']).toMatchObject({ size: 3 });
  });

  it.each([
    ['behind', [file('d/s/new'), directory('d', { mode: 0o700 }), file('d/.wh..wh..opq', {}, '')]],
    ['before', [file('d/.wh..wh..opq', {}, ''), directory('d', { mode: 0o700 }), file('d/s/new')]],
  ])('empties an opaque directory, the mark %s the entries', async (_, upper) => {
    const lower = [
      directory('d'),
      file('d/old'),
      directory('d/s', { mode: 0o711 }),
      file('d/s/old'),
    ];
    expect(await pathsOf(lower, upper)).toEqual(['/d/', '/d/s/', '/d/s/new']);
    const facts = factsOfTree(await treeOf(lower, upper));
    expect(facts['/d']).toMatchObject({ mode: 0o700 });
    expect(facts['/d/s']).toMatchObject({ mode: 0o755 });
  });

  it('hides nothing in the layer that is lowest', async () => {
    expect(await pathsOf([file('a'), file('.wh.a', {}, '')])).toEqual(['/a']);
  });

  it('makes the directory of a whiteout, as containerd does', async () => {
    expect(await pathsOf([file('a/b/.wh.c', {}, '')])).toEqual(['/a/', '/a/b/']);
  });

  it('gives the file of a hard link what the entry of the link says', async () => {
    const tree = await treeOf(
      [
        pax([['SCHILY.xattr.user.a', '1']]),
        file('a', { mode: 0o644, mtime: 1 }),
        symlink('s', 'a'),
      ],
      [hardlink('d/b', 'a', { mode: 0o600, uid: 3, mtime: 2 }), hardlink('t', '/s')],
    );
    const facts = factsOfTree(tree);
    expect(facts['/a']).toMatchObject({ mode: 0o600, uid: 3, mtime: '2.000000000', group: '/a' });
    expect(facts['/d/b']).toMatchObject({ group: '/a', attributes: { 'user.a': '31' } });
    expect(facts['/t']).toMatchObject({ type: 'symlink', mode: 0o777, group: '/s' });
  });

  it('keeps a file that has another name', async () => {
    const tree = await treeOf(
      [file('a'), hardlink('b', 'a')],
      [file('.wh.a', {}, '')],
      [file('c')],
    );
    const facts = factsOfTree(tree);
    expect(Object.keys(facts)).toEqual(['', '/b', '/c']);
    expect(facts['/b']).toMatchObject({ size: 1, group: '/b' });
  });

  it('keeps what the layers say of the root', async () => {
    const tree = await treeOf([directory('./', { mode: 0o700, uid: 4 })]);
    expect(tree.isRootDescribed).toBe(true);
    expect(factsOfTree(tree)['']).toMatchObject({ mode: 0o700, uid: 4 });
  });

  it.each([
    [-(2 ** 40), '-2147483648.000000000'],
    [2 ** 40, '15032385535.000000000'],
    [-5, '-5.000000000'],
  ])('keeps the time %s as ext4 can', async (mtime, wanted) => {
    expect(factsOfTree(await treeOf([file('a', { mtime })]))['/a']?.mtime).toBe(wanted);
  });

  it('tells content, and not holes, apart', async () => {
    const digestOf = async (content: string): Promise<string> => {
      const tree = await treeOf([file('a', {}, content)]);
      return Buffer.from(tree.inodes.digest(tree.child(tree.root, 'a') ?? 0)).toString('hex');
    };
    const zeros = '\0'.repeat(4096);
    const contents = ['x', `${zeros}x`, `x${zeros}`.slice(0, 4096), `${zeros}${zeros}x`, 'xx'];
    const digests = await Promise.all(contents.map(digestOf));
    expect(new Set(digests).size).toBe(4);
    expect(digests[2]).toBe(digests[0]);
    const sparse = joined(
      pax([
        ['GNU.sparse.major', '1'],
        ['GNU.sparse.minor', '0'],
        ['GNU.sparse.realsize', String(2 ** 45)],
      ]),
      member({ path: 'a' }, bytesOf(`1\n8192\n1\n${'\0'.repeat(512 - 9)}x`)),
    );
    const tree = await treeOf([sparse]);
    const id = tree.child(tree.root, 'a') ?? 0;
    expect(Buffer.from(tree.inodes.digest(id)).toString('hex')).toBe(digests[3]);
    expect(tree.inodes.facts(id).sizeBytes).toBe(2 ** 45);
  });

  it.each([
    ['an entry below a file', [file('a'), file('a/b')]],
    ['a hard link to nothing', [hardlink('a', 'none')]],
    ['a hard link to a directory', [directory('d'), hardlink('a', 'd')]],
    ['a hard link to itself', [file('a'), hardlink('a', 'a')]],
    ['links in a circle', [symlink('a', 'b'), symlink('b', 'a'), file('a/x')]],
    ['a whiteout of no name', [file('.wh.', {}, '')]],
    ['a whiteout of the parent', [file('d/.wh...', {}, '')]],
  ])('refuses %s', async (_, layer) => {
    await expect(treeOf(layer)).rejects.toMatchObject({ code: 'layer' });
  });

  it('does not grow by names that are replaced and removed', async () => {
    const layers: Uint8Array[][] = [];
    for (let i = 0; i < 50; i++) {
      layers.push(
        [file('d/a', {}, `${i}`), file('d/.wh.b', {}, '')],
        [file('d/b'), file('.wh.d', {}, '')],
      );
    }
    const tree = await treeOf(...layers);
    expect(tree.inodes.count).toBeLessThan(8);
  });
});
