import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { compareTrees, type Comparison } from '../../../src/convert/check/compare-trees.ts';
import { Ext4Reader } from '../../../src/convert/check/ext4-reader.ts';
import { OriginalTree } from '../../../src/convert/check/original-tree.ts';
import { BlockFile } from '../../../src/convert/ext4/block-file.ts';
import { Ext4 } from '../../../src/convert/ext4/ext4.ts';
import { LayerTree } from '../../../src/convert/ext4/layer-tree.ts';
import { makeEmptyExt4 } from '../../../src/convert/ext4/make.ts';
import { withFile } from '../../../src/convert/files.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { MIB } from '../../../src/util/bytes.ts';
import { describeWith, needs } from '../../kit/requires.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import { anyLayers, bytes, items, type Init } from './kit.ts';

const DEVICE_BYTES = 256 * MIB;
const hash = new NodeHash();

/** Applies the layers to a new file system; the changed blocks of each, and the file. */
async function apply(
  layers: readonly (readonly Init[])[],
): Promise<{ readonly path: string; readonly changedCounts: readonly number[] }> {
  const path = join(tempFolder(), 'disk');
  await makeEmptyExt4(path, DEVICE_BYTES, undefined);
  const disk = new BlockFile(path, DEVICE_BYTES);
  const changedCounts: number[] = [];
  try {
    for (const layer of layers) {
      const fs = Ext4.open(disk);
      try {
        fs.removeLostAndFound();
        const tree = new LayerTree(fs);
        for await (const each of items(layer)) await tree.apply(each);
      } catch (error) {
        fs.abandon();
        throw error;
      }
      fs.close();
      changedCounts.push(disk.takeChanged().count);
    }
  } finally {
    disk.close();
  }
  return { path, changedCounts };
}

/** What e2fsck says against the file system; empty when it is sound. */
function complaints(path: string): string {
  const { status, stdout } = spawnSync('/usr/sbin/e2fsck', ['-fn', path], { encoding: 'utf8' });
  return status === 0 ? '' : stdout;
}

/** Compares the file system with an independent reading of the same layers. */
async function compare(
  layers: readonly (readonly Init[])[],
  path: string,
): Promise<Pick<Comparison, 'differences' | 'entryCount'>> {
  const tree = new OriginalTree({ hash });
  for (const layer of layers) await tree.addLayer(items(layer));
  return withFile(path, 'read', async (file) => {
    const reader = await Ext4Reader.open(file);
    return compareTrees({ hash }, { reader, tree });
  });
}

/** Applies the layers, and expects a sound file system with what they make. */
async function expectSame(...layers: readonly (readonly Init[])[]): Promise<readonly number[]> {
  const { path, changedCounts } = await apply(layers);
  expect(complaints(path)).toBe('');
  const { differences } = await compare(layers, path);
  expect(differences).toEqual([]);
  return changedCounts;
}

const tools = [needs.program('mke2fs'), needs.program('e2fsck')];

describeWith('LayerTree', tools, () => {
  it('makes of any layers what an independent reading of them says, or refuses both', async () => {
    let soundCount = 0;
    await fc.assert(
      fc.asyncProperty(anyLayers, async (all) => {
        const made = await apply(all).catch((error: unknown) => error);
        const original = compareNothing(all);
        if (made instanceof Error) {
          await expect(original).rejects.toThrow();
          return;
        }
        await original;
        const { path: disk } = made as Awaited<ReturnType<typeof apply>>;
        expect(complaints(disk)).toBe('');
        const { differences } = await compare(all, disk);
        expect(differences).toEqual([]);
        soundCount++;
      }),
      { numRuns: 60 },
    );
    // About a quarter of them is sound; how many of 60 differs from run to run.
    expect(soundCount).toBeGreaterThan(0);
  });

  it('keeps names that are no text', async () => {
    const names = ['\xff\xfe', 'é'.repeat(127), 'x'.repeat(255), 'new\nline', 'quote"\\ '];
    await expectSame(names.map((each) => ({ path: `names/${each}`, data: bytes(10) })));
  });

  it('keeps every size around a block, holes and zeros', async () => {
    const sizes = [0, 1, 4095, 4096, 4097, 1_048_575, 1_048_577, 3_000_000];
    const zeros = new Uint8Array(100_000);
    const mixed = bytes(3 * MIB);
    mixed.fill(0, 5000, 2_500_000);
    const end = 9 * 2 ** 30;
    const sparse: Init = {
      path: 'sparse',
      data: bytes(2003),
      sizeBytes: end + 3,
      dataRuns: [
        { offset: 10, length: 1000 },
        { offset: 5_000_001, length: 1000 },
        { offset: end, length: 3 },
      ],
    };
    await expectSame([
      ...sizes.map((size) => ({ path: `size-${size}`, data: bytes(size) })),
      { path: 'zeros', data: zeros },
      { path: 'mixed', data: mixed },
      sparse,
    ]);
  });

  it('indexes a large directory, and changes few blocks when one name comes', async () => {
    const many = Array.from({ length: 3000 }, (_, i) => ({ path: `many/file-number-${i}` }));
    const [, second] = await expectSame(
      [{ path: 'many', type: 'directory' }, ...many],
      [{ path: 'many/one-more' }],
    );
    // The new inode, its directory's leaf and inode, the bitmap and the counters.
    expect(second).toBeLessThanOrEqual(7);
  });

  it('hides lower names alone, wherever the whiteout stands', async () => {
    await expectSame(
      [
        { path: 'd/old' },
        { path: 'd/sub/old' },
        { path: 'gone/deep/file' },
        { path: 'kept', data: bytes(10) },
      ],
      [
        { path: 'd/sub/new' },
        { path: 'd/linked', type: 'hardlink', linkTarget: 'kept' },
        { path: 'd/.wh..wh..opq' },
        { path: '.wh.gone' },
        { path: 'gone/again' },
        { path: '.wh.not-there' },
        { path: '.wh..wh.plnk/aufs' },
        { path: 'no/such/.wh.place' },
      ],
    );
  });

  it('follows symbolic links within the root', async () => {
    await expectSame([
      { path: 'absolute', type: 'symlink', linkTarget: '/etc' },
      { path: 'absolute/passwd', data: bytes(5) },
      { path: 'upward', type: 'symlink', linkTarget: '../../../../etc' },
      { path: 'upward/shadow', data: bytes(6) },
      { path: '../../../outside', data: bytes(7) },
      { path: 'a/b/inner', type: 'symlink', linkTarget: '../q/./r/../s' },
      { path: 'a/b/inner/below' },
      { path: 'long', type: 'symlink', linkTarget: 'x'.repeat(4095) },
      { path: 'sixty', type: 'symlink', linkTarget: 'x'.repeat(60) },
    ]);
  });

  it('replaces directories by files, files by directories, and links by themselves', async () => {
    await expectSame(
      [{ path: 'a/b/c', data: bytes(9) }, { path: 'f', data: bytes(8) }, { path: 'g' }],
      [
        { path: 'a', data: bytes(3) },
        { path: 'f', type: 'directory', mode: 0o700 },
        { path: 'f/in', data: bytes(4) },
        { path: 'g', type: 'symlink', linkTarget: 'f' },
        { path: 'g/through' },
        { path: 'h', type: 'hardlink', linkTarget: 'f/in' },
        { path: 'h', type: 'hardlink', linkTarget: 'f/in' },
      ],
    );
  });

  it('replaces the extended attributes of a directory, also by none', async () => {
    const xattr = (...pairs: readonly [string, number][]): ReadonlyMap<string, Uint8Array> =>
      new Map(pairs.map(([key, length]) => [key, bytes(length)]));
    await expectSame(
      [
        { path: 'd', type: 'directory', xattrs: xattr(['user.a', 10], ['user.large', 3900]) },
        { path: 'e', type: 'directory', xattrs: xattr(['user.a', 10]) },
        { path: 'cap', xattrs: xattr(['security.capability', 20]) },
      ],
      [
        { path: 'd', type: 'directory', xattrs: xattr(['user.b', 5]) },
        { path: 'e', type: 'directory' },
      ],
    );
  });

  it('gives a hard link the attributes of its file, and the file those of the link', async () => {
    await expectSame(
      [{ path: 'f', xattrs: new Map([['user.a', bytes(10)]]) }],
      [
        { path: 'h', type: 'hardlink', linkTarget: 'f', mode: 0o600, uid: 7 },
        {
          path: 'i',
          type: 'hardlink',
          linkTarget: 'h',
          xattrs: new Map([['user.b', bytes(20)]]),
        },
      ],
    );
  });

  it('keeps what a layer adds below a directory that the same layer hides', async () => {
    await expectSame(
      [
        { path: 'd', type: 'directory', mode: 0o700, uid: 7 },
        { path: 'd/old' },
        { path: 'e/s', type: 'directory', xattrs: new Map([['user.a', bytes(10)]]) },
        { path: 'e/s/old' },
        { path: 'f/old' },
      ],
      [
        { path: 'd/new' },
        { path: '.wh.d' },
        { path: 'e/s/new' },
        { path: 'e/.wh..wh..opq' },
        { path: 'f/implied/.wh..wh..opq' },
        { path: '.wh.f' },
      ],
    );
  });

  it('keeps the nearest time that ext4 has', async () => {
    await expectSame([
      { path: 'early', mtime: { seconds: -(2 ** 31) - 1, nanoseconds: 500 } },
      { path: 'first', mtime: { seconds: -(2 ** 31), nanoseconds: 0 } },
      { path: 'before 1970', mtime: { seconds: -2, nanoseconds: 999_999_999 } },
      { path: 'after 2038', mtime: { seconds: 2 ** 31, nanoseconds: 1 } },
      { path: 'last', mtime: { seconds: 2 ** 34 - 2 ** 31 - 1, nanoseconds: 999_999_999 } },
      { path: 'late', mtime: { seconds: 2 ** 40, nanoseconds: 5 } },
    ]);
  });

  it('keeps devices with large numbers', async () => {
    await expectSame([
      { path: 'null', type: 'character-device', deviceMajor: 1, deviceMinor: 3 },
      { path: 'big', type: 'block-device', deviceMajor: 259, deviceMinor: 1_000_000 },
      { path: 'zero', type: 'character-device', deviceMajor: 0, deviceMinor: 0 },
    ]);
  });

  it.each<readonly [string, readonly Init[]]>([
    ['is missing', [{ path: 'link', type: 'hardlink', linkTarget: 'none' }]],
    [
      'is a directory',
      [
        { path: 'd', type: 'directory' },
        { path: 'link', type: 'hardlink', linkTarget: 'd' },
      ],
    ],
    ['is missing', [{ path: 'self' }, { path: 'self', type: 'hardlink', linkTarget: 'self' }]],
    ['is not a directory', [{ path: 'f' }, { path: 'f/below' }]],
    ['has room for 255', [{ path: 'x'.repeat(256) }]],
    ['1 to 4095 bytes', [{ path: 'l', type: 'symlink', linkTarget: 'x'.repeat(4096) }]],
    [
      'too many symbolic links',
      [
        { path: 'a', type: 'symlink', linkTarget: 'b' },
        { path: 'b', type: 'symlink', linkTarget: 'a' },
        { path: 'a/file' },
      ],
    ],
    ['a file of ext4 has at most', [{ path: 'huge', sizeBytes: 2 ** 50, dataRuns: [] }]],
    ['its owner', [{ path: 'f', uid: 2 ** 40 }]],
    ['extended attribute', [{ path: 'f', xattrs: new Map([['user.a', bytes(60_000)]]) }]],
  ])('refuses an entry with the reason: %s', async (reason, layer) => {
    await expect(apply([layer])).rejects.toThrow(reason);
  });

  it('refuses more hard links than ext4 counts', async () => {
    const link = (i: number): Init => ({ path: `l${i}`, type: 'hardlink', linkTarget: 'f' });
    const links = Array.from({ length: 65_000 }, (_, i) => link(i));
    const many = apply([[{ path: 'f' }, ...links]]);
    await expect(many).rejects.toThrow('at most 65000 hard links');
  });

  it('says that the device is too small', async () => {
    const layer = [{ path: 'large', data: new Uint8Array(260 * MIB).fill(1) }];
    await expect(apply([layer])).rejects.toThrow('choose a larger --size');
  });
});

/** Reads the layers in the independent way alone. */
async function compareNothing(layers: readonly (readonly Init[])[]): Promise<void> {
  const tree = new OriginalTree({ hash });
  for (const layer of layers) await tree.addLayer(items(layer));
}
