import { mkdirSync, readdirSync, writeFileSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { BLOCK_IMAGE_DEFAULTS } from '../../src/convert/block-image-builder.ts';
import { convertImage, type ConversionResult } from '../../src/convert/convert-image.ts';
import { LayoutPlace } from '../../src/convert/places/layout-place.ts';
import { NodeDecompressor } from '../../src/runtime/node/decompressor.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import { GIB, MIB } from '../../src/util/bytes.ts';
import { codec } from '../kit/layers.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { bytesOf, header, member, padded, pax } from '../kit/tar-encoder.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { SourceImages } from './kit/source-images.ts';

const components = { codec, hash: new NodeHash(), decompressor: new NodeDecompressor() };
const directory = (path: string): Uint8Array => member({ path, type: '5', mode: 0o755 });
const symlink = (path: string, linkTarget: string): Uint8Array =>
  member({ path, type: '2', linkTarget });

/** Converts a layer; the folder holds nothing but the target, also when it is refused. */
async function convert(
  members: readonly Uint8Array[],
  deviceBytes = 256 * MIB,
): Promise<{ readonly folder: string; readonly result: Promise<ConversionResult> }> {
  const images = new SourceImages();
  await images.put('app', [{ members, compression: 'gzip' }]);
  const folder = tempFolder();
  const workFolder = join(folder, 'work');
  mkdirSync(workFolder);
  const target = new LayoutPlace(components, `oci:${join(folder, 'target')}:block`);
  const { signal } = new AbortController();
  const result = convertImage(
    components,
    { source: images.place('app'), target, cache: undefined, workFolder },
    { ...BLOCK_IMAGE_DEFAULTS, deviceBytes, signal, platform: undefined, asReferrer: false },
  );
  return { folder, result };
}

describeWith('a hostile layer', [needs.program('mke2fs')], () => {
  it('writes nothing outside the image, whatever its paths and links say', async () => {
    const victim = join(tempFolder(), 'victim');
    writeFileSync(victim, 'as it was');
    const up = '../'.repeat(20);
    const { folder, result } = await convert([
      member({ path: `${up}${victim.slice(1)}` }, bytesOf('overwritten')),
      symlink('absolute', victim.slice(0, victim.lastIndexOf('/'))),
      member({ path: 'absolute/victim' }, bytesOf('overwritten')),
      symlink('relative', `${up}${victim.slice(1)}`),
      member({ path: 'relative' }, bytesOf('replaces the link')),
      member({ path: 'hard', type: '1', linkTarget: `${up}etc/passwd` }),
    ]);
    await expect(result).rejects.toThrow('entry "hard": it is a hard link to');
    expect(readFileSync(victim, 'utf8')).toBe('as it was');
    expect(readdirSync(folder)).toEqual(['work']);
    expect(readdirSync(join(folder, 'work'))).toEqual([]);
  });

  it('that grows a thousandfold, to zeros, becomes a hole', async () => {
    const zeros = new Uint8Array(200 * MIB);
    const { result } = await convert([member({ path: 'zeros' }, zeros)]);
    const { platforms } = await result;
    expect(platforms[0]?.layers[0]?.sizeBytes).toBeLessThan(200_000);
  });

  it.each<readonly [string, readonly Uint8Array[]]>([
    [
      'that is larger than the device',
      Array.from({ length: 5 }, (_, i) =>
        member({ path: `f${i}` }, new Uint8Array(60 * MIB).fill(i + 1)),
      ),
    ],
    ['whose entry says more bytes than there are', [header({ path: 'f', size: 2 ** 32 })]],
    ['with a negative size', [header({ path: 'f', size: -5 }), padded(bytesOf('hello'))]],
    [
      'with gigabytes of PAX headers',
      [header({ path: 'PaxHeaders/x', type: 'x', size: 2 * GIB }), new Uint8Array(4096)],
    ],
    ['with a file of exabytes', [pax([['size', '9007199254740000']]), header({ path: 'f' })]],
    ['with a path below a file', [member({ path: 'f' }), member({ path: 'f/below' })]],
    ['with links in a circle', [symlink('a', 'b'), symlink('b', 'a'), member({ path: 'a/below' })]],
    ['with a name of 300 bytes', [pax([['path', `d/${'n'.repeat(300)}`]]), member({ path: 'x' })]],
    [
      'with attributes that no inode has room for',
      [pax([['SCHILY.xattr.user.large', 'v'.repeat(50_000)]]), member({ path: 'f' })],
    ],
  ])('%s is refused with the reason, and leaves nothing', async (_, members) => {
    const { folder, result } = await convert([directory('d'), ...members]);
    await expect(result).rejects.toMatchObject({
      name: 'ConvertError',
      message: expect.stringMatching(/entry|"|tar|device/) as string,
    });
    expect(readdirSync(folder)).toEqual(['work']);
    expect(readdirSync(join(folder, 'work'))).toEqual([]);
  });
});
