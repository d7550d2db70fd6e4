import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { zstdDecompressSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { BLOCK_IMAGE_DEFAULTS } from '../../src/convert/block-image-builder.ts';
import { convertImage } from '../../src/convert/convert-image.ts';
import { exportImage } from '../../src/convert/export-image.ts';
import { blobPath } from '../../src/convert/oci-layout.ts';
import { LayoutPlace } from '../../src/convert/places/layout-place.ts';
import { parseManifest } from '../../src/image/manifest.ts';
import { NodeDecompressor } from '../../src/runtime/node/decompressor.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import { factsOfFolder, python } from '../kit/file-trees.ts';
import { codec } from '../kit/layers.ts';
import { putLayout } from '../kit/oci-layout.ts';
import { digestOf } from '../kit/registry-content.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { tempFolder } from '../kit/temp-folder.ts';

const parts = { codec, hash: new NodeHash(), decompressor: new NodeDecompressor() };
const { signal } = new AbortController();

/** Files of all kinds that a tar holds, some of them hard to write. */
const LOWER = String.raw`
import os, stat
os.makedirs('usr/bin'); os.makedirs('gone'); os.makedirs('empty')
open('gone/a', 'w').write('a')
open('usr/bin/tool', 'wb').write(os.urandom(3_000_000))
os.link('usr/bin/tool', 'usr/bin/same')
os.symlink('../bin/tool', 'usr/bin/link'); os.symlink('x' * 3000, 'far')
os.link('usr/bin/link', 'usr/bin/link2', follow_symlinks=False)
os.makedirs('d' * 200 + '/' + 'e' * 200); open('d' * 200 + '/' + 'f' * 255, 'w').write('long')
open(b'\xff\xfe raw', 'w').write('raw'); open('grün', 'w').write('')
with open('sparse', 'wb') as f:
  f.truncate(9_000_000); f.seek(5_000_000); f.write(b'middle')
os.mknod('null', stat.S_IFCHR | 0o666, os.makedev(1, 3)); os.mkfifo('pipe')
os.mknod('disk', stat.S_IFBLK | 0o660, os.makedev(259, 70000))
os.chown('usr/bin/same', 3_000_000, 2_200_000); os.chmod('usr/bin/same', 0o4755)
os.chmod('empty', 0o1777)
os.setxattr('sparse', 'user.a', b'1=2\n\x00\xff'); os.setxattr('sparse', 'user.b', b'')
os.utime('grün', ns=(0, 1_500_000_000_123_456_789)); os.utime('sparse', ns=(0, -1_500_000_000))
os.utime('usr', (5, 5))
`;

const UPPER = String.raw`
import os
os.makedirs('usr/bin'); open('.wh.gone', 'w'); open('usr/bin/new', 'w').write('new')
os.makedirs('empty'); open('empty/.wh..wh..opq', 'w')
`;

/** An image of these layers, unpacked by umoci. */
function unpacked(layout: string, tag: string, folder: string) {
  const bundle = join(folder, `bundle-${tag}`);
  execFileSync('umoci', ['raw', 'unpack', '--image', `${layout}:${tag}`, bundle], {
    stdio: 'pipe',
  });
  const facts = factsOfFolder(bundle);
  const root = facts[''];
  // umoci gives the root the time at which it unpacked it when no layer has one.
  return { ...facts, '': { ...root, mtime: '' } };
}

const NEEDS = [needs.root, ...['mke2fs', 'umoci', 'python3', 'tar'].map(needs.program)];

describeWith('exportImage()', NEEDS, () => {
  test('gives back what the original unpacks to, with the same digests each time', async () => {
    const folder = tempFolder();
    const layers = [LOWER, UPPER].map((program, i) => {
      const path = join(folder, `layer-${i}`);
      mkdirSync(path);
      python(path, program);
      const how = ['--format=posix', '--xattrs', '--xattrs-include=*', '--numeric-owner'];
      execFileSync('tar', [...how, '-C', path, '-cf', `${path}.tar`, '.']);
      return new Uint8Array(readFileSync(`${path}.tar`));
    });
    const layout = join(folder, 'layout');
    await putLayout(layout, 'plain', layers);
    const place = (tag: string) => new LayoutPlace(parts, `oci:${layout}:${tag}`);
    const work = (name: string): string => {
      mkdirSync(join(folder, name));
      return join(folder, name);
    };
    await convertImage(
      parts,
      {
        ...{ source: place('plain'), target: place('block') },
        ...{ cache: undefined, workFolder: work('convert') },
      },
      {
        ...BLOCK_IMAGE_DEFAULTS,
        ...{ deviceBytes: 2 ** 30, signal, platform: undefined, asReferrer: false },
      },
    );
    const make = (tag: string, compression: 'gzip' | 'zstd') =>
      exportImage(
        parts,
        { source: place('block'), target: place(tag), workFolder: work(`work-${tag}`) },
        { signal, platform: undefined, compression },
      );
    const [first, second, packed] = [
      await make('gzip', 'gzip'),
      await make('again', 'gzip'),
      await make('zstd', 'zstd'),
    ];
    expect(second).toEqual(first);
    expect(packed.diffId).toBe(first.diffId);
    expect(packed.digest).not.toBe(first.digest);
    const wanted = unpacked(layout, 'plain', folder);
    expect(unpacked(layout, 'gzip', folder)).toEqual(wanted);
    // This umoci knows no zstd.
    const tar = zstdDecompressSync(readFileSync(blobPath(layout, packed.layer.digest)));
    expect(digestOf(tar)).toBe(packed.diffId);
    const manifest = parseManifest(readFileSync(blobPath(layout, first.digest)));
    const config = JSON.parse(
      readFileSync(blobPath(layout, manifest.config.digest), 'utf8'),
    ) as object;
    expect(config).toMatchObject({
      ...{ os: 'linux', architecture: 'amd64' },
      rootfs: { type: 'layers', diff_ids: [first.diffId] },
    });
  });
});
