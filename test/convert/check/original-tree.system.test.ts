import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { OriginalTree } from '../../../src/convert/check/original-tree.ts';
import { readTar } from '../../../src/convert/tar/read-tar.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { factsOfFolder, factsOfTree, python, type FolderFacts } from '../../kit/file-trees.ts';
import { putLayout } from '../../kit/oci-layout.ts';
import { describeWith, needs } from '../../kit/requires.ts';
import { tempFolder } from '../../kit/temp-folder.ts';

/** Layers of an image, made by GNU tar, on which umoci and containerd agree. */
const LAYERS = [
  String.raw`
os.makedirs('d/e'); os.makedirs('gone/deep'); os.makedirs('opaque/sub')
for name in ('a', 'd/x', 'd/e/y', 'gone/deep/z', 'opaque/old', 'opaque/sub/old', 'replaced'):
  open(name, 'w').write(name)
os.link('a', 'd/linked'); os.symlink('/d/e', 'link'); os.mkfifo('fifo')
os.mknod('null', 0o666 | stat.S_IFCHR, os.makedev(1, 3))
os.chmod('a', 0o4755); os.chown('d/x', 70000, 4294967294)
os.setxattr('d/x', 'user.name', b'value'); os.chmod('d', 0o1777)
open(b'\xff name', 'w')
`,
  String.raw`
os.makedirs('d'); os.makedirs('opaque'); os.makedirs('replaced')
open('.wh.gone', 'w'); open('opaque/.wh..wh..opq', 'w'); open('d/.wh.x', 'w')
open('opaque/new', 'w').write('new'); open('replaced/in', 'w').write('in')
open('a', 'w').write('again'); os.chmod('d', 0o700)
`,
];

/** Unpackers give directories that no entry describes the time of now, and the root as well. */
function comparable(facts: FolderFacts): object {
  const all = Object.entries(facts).filter(([path]) => path !== '');
  return Object.fromEntries(all.map(([path, each]) => [path, { ...each, sha256: '' }]));
}

const tools = [needs.root, needs.program('umoci'), needs.program('tar'), needs.program('python3')];

describeWith('OriginalTree and umoci', tools, () => {
  it('make the same files of layers', async () => {
    const folder = tempFolder();
    const layers: Uint8Array[] = [];
    for (const [i, program] of LAYERS.entries()) {
      const tree = join(folder, `tree-${i}`);
      mkdirSync(tree);
      python(tree, program);
      const tar = join(folder, `${i}.tar`);
      const how = ['--format=pax', '--xattrs', '--sort=name', '--numeric-owner'];
      execFileSync('tar', [...how, '-C', tree, '-cf', tar, '.']);
      layers.push(new Uint8Array(readFileSync(tar)));
    }
    const layout = join(folder, 'layout');
    await putLayout(layout, 'one', layers);
    const bundle = join(folder, 'bundle');
    execFileSync('umoci', ['unpack', '--image', `${layout}:one`, bundle]);
    const tree = new OriginalTree({ hash: new NodeHash() });
    for (const bytes of layers) await tree.addLayer(readTar(chunk(bytes)));
    expect(comparable(factsOfTree(tree))).toEqual(
      comparable(factsOfFolder(join(bundle, 'rootfs'))),
    );
  });
});

async function* chunk(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}
