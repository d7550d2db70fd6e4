import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { compareTrees, type Comparison } from '../../../src/convert/check/compare-trees.ts';
import { Ext4Reader } from '../../../src/convert/check/ext4-reader.ts';
import { OriginalTree } from '../../../src/convert/check/original-tree.ts';
import { readTar } from '../../../src/convert/tar/read-tar.ts';
import { memorySource } from '../../../src/image/byte-source.ts';
import { openLayer } from '../../../src/image/layer.ts';
import { LayeredImage } from '../../../src/image/layered-image.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { codec } from '../../kit/layers.ts';
import { describeWith, FIXTURES, needs } from '../../kit/requires.ts';
import { bytesOf, END, joined, member, pax, type HeaderFields } from '../../kit/tar-encoder.ts';

const hash = new NodeHash();
const fixture = (path: string): Uint8Array => readFileSync(join(FIXTURES, path));

async function* chunks(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

/** Compares what overlaybd made of three layers with those, and changes on top of them. */
async function compare(...changes: readonly Uint8Array[]): Promise<Comparison> {
  const blobs = [0, 1, 2].map((i) => fixture(`layers/layer${i}.overlaybd.commit`));
  const layers = await Promise.all(blobs.map((blob) => openLayer(memorySource(blob), codec)));
  const reader = await Ext4Reader.open(new LayeredImage(layers));
  const tree = new OriginalTree({ hash });
  for (const i of [0, 1, 2]) await tree.addLayer(readTar(chunks(fixture(`tars/layer${i}.tar`))));
  await tree.addLayer(readTar(chunks(joined(...changes, END))));
  return compareTrees({ hash }, { reader, tree });
}

const RELEASE: HeaderFields = { path: 'etc/os-release', mode: 0o644, mtime: 1_700_000_000 };
const text = bytesOf('n'.repeat(31));

describeWith('compareTrees() of the image that overlaybd made', [needs.fixtures], () => {
  it('finds no difference from the layers', async () => {
    expect(await compare()).toEqual({
      entryCount: 14,
      contentBytes: 2_047_371,
      differenceCount: 0,
      differences: [],
    });
  });

  it.each([
    ['content', member(RELEASE, text), ['/etc/os-release: content differs']],
    [
      'a name that is missing',
      member({ path: 'etc/a\n\xff' }),
      ['/etc/a\\n\\xff: is missing in the image'],
    ],
    ['a name too many', member({ path: 'opt/.wh.lib.so' }), ['/opt/lib.so: is in the image alone']],
    [
      'the target of a link',
      member({ path: 'bin/sh', type: '2', linkTarget: 'ash', mtime: 1_700_000_000 }),
      ['/bin/sh: target is app in the image, ash in the original'],
    ],
    [
      'the type',
      member({ path: 'tmp', type: '6' }),
      ['/tmp: is a directory in the image, a fifo in the original'],
    ],
    [
      'rights, owners, time and size',
      joined(
        pax([['mtime', '1699999999.000000007']]),
        member({ ...RELEASE, mode: 0o4755, uid: 1, gid: 70_000, size: 1 }, bytesOf('x')),
      ),
      [
        'mode is 0644 in the image, 04755 in the original',
        'uid is 0 in the image, 1 in the original',
        'gid is 0 in the image, 70000 in the original',
        'size is 31 in the image, 1 in the original',
        'mtime is 1700000000 s 0 ns in the image, 1699999999 s 7 ns in the original',
      ].map((line) => `/etc/os-release: ${line}`),
    ],
    [
      'attributes',
      joined(
        pax([['SCHILY.xattr.user.a', '1']]),
        member({ path: 'tmp', type: '5', mode: 0o755, mtime: 1_700_000_000 }),
      ),
      ['/tmp: attribute user.a is missing in the image'],
    ],
  ])('finds %s', async (_, change, wanted) => {
    const { differences, differenceCount } = await compare(change);
    expect(differences).toEqual(wanted);
    expect(differenceCount).toBe(wanted.length);
  });

  it('finds hard links', async () => {
    const link = { path: 'data/text.txt', type: '1', linkTarget: 'data/zeros.bin' };
    const { differences } = await compare(member({ ...link, mode: 0o644, mtime: 1_700_000_000 }));
    const isOfLinks = (line: string): boolean => line.includes('hard link');
    expect(differences.filter(isOfLinks)).toHaveLength(3);
  });

  it('counts all differences and keeps the first hundred', async () => {
    const names = Array.from({ length: 500 }, (_, i) => member({ path: `new/${i}` }));
    const { differences, differenceCount } = await compare(
      ...names,
      member({ path: 'etc/.wh.os-release' }),
      ...Array.from({ length: 300 }, (_, i) => member({ path: `opt/${i}` })),
    );
    expect(differences).toHaveLength(100);
    expect(differenceCount).toBe(302);
  });
});
