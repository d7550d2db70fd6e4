import { join } from 'node:path';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { BLOCK_IMAGE_DEFAULTS, BlockImageBuilder } from '../../src/convert/block-image-builder.ts';
import { compareTrees } from '../../src/convert/check/compare-trees.ts';
import { Ext4Reader } from '../../src/convert/check/ext4-reader.ts';
import { OriginalTree } from '../../src/convert/check/original-tree.ts';
import { changesOf } from '../../src/convert/ext4-changes.ts';
import { tarOfExt4 } from '../../src/convert/ext4-tar.ts';
import { LocalFile } from '../../src/convert/files.ts';
import { readTar } from '../../src/convert/tar/read-tar.ts';
import { openLayer, type Layer } from '../../src/image/layer.ts';
import { LayeredImage } from '../../src/image/layered-image.ts';
import { NodeHash } from '../../src/runtime/node/hash.ts';
import { bytesEqual, MIB } from '../../src/util/bytes.ts';
import { codec } from '../kit/layers.ts';
import { digestOf } from '../kit/registry-content.ts';
import { describeWith, needs } from '../kit/requires.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { anyLayers, bytes, items, type Init } from './ext4/kit.ts';
import { chunksOf } from './tar/kit.ts';

const parts = { codec, hash: new NodeHash() };
const { signal } = new AbortController();
const OPTIONS = { ...BLOCK_IMAGE_DEFAULTS, deviceBytes: 256 * MIB };

/** Makes a block layer of each layer, and calls `use` with them. */
async function withBlockLayers<T>(
  layers: readonly (readonly Init[])[],
  use: (made: readonly Layer[]) => Promise<T>,
): Promise<T> {
  const folder = tempFolder();
  const files: LocalFile[] = [];
  try {
    const made: Layer[] = [];
    const builder = await BlockImageBuilder.create(parts, folder, OPTIONS);
    try {
      for (const [i, layer] of layers.entries()) {
        const blobPath = join(folder, `layer-${i}`);
        const chainId = digestOf(Buffer.from([i]));
        await builder.add(items(layer), () => ({ chainId, parentChainId: undefined }), {
          blobPath,
        });
        const file = await LocalFile.open(blobPath, 'read');
        files.push(file);
        made.push(await openLayer(file, codec));
      }
    } finally {
      await builder.close();
    }
    return await use(made);
  } finally {
    for (const file of files) await file.close();
  }
}

/** A file system as a layer, whole. */
async function tarOf(...args: Parameters<typeof tarOfExt4>): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  for await (const piece of tarOfExt4(...args)) pieces.push(Uint8Array.from(piece));
  return new Uint8Array(Buffer.concat(pieces));
}

/**
 * The block layers as layers of an ordinary image; with each of them, those up to it make what the
 * block layers up to there hold.
 */
async function exported(layers: readonly (readonly Init[])[]): Promise<readonly Uint8Array[]> {
  return withBlockLayers(layers, async (made) => {
    const tree = new OriginalTree(parts);
    const tars: Uint8Array[] = [];
    let lower: Ext4Reader | undefined;
    for (const [i, layer] of made.entries()) {
      const upper = await Ext4Reader.open(new LayeredImage(made.slice(0, i + 1)));
      const over = lower && changesOf(parts, { lower, upper }, layer);
      const tar = await tarOf(upper, { signal, over });
      await tree.addLayer(readTar(chunksOf(tar, 100_000)));
      const { differences } = await compareTrees(parts, { reader: upper, tree });
      expect(differences).toEqual([]);
      if (over !== undefined) {
        // Without knowing what the layer touches, everything is compared.
        const blind = await tarOf(upper, { signal, over: { ...over, touches: undefined } });
        expect(bytesEqual(blind, tar)).toBe(true);
      }
      tars.push(tar);
      lower = upper;
    }
    return tars;
  });
}

/** The entries of a layer: path, type, and the target of a link. */
async function entriesOf(tar: Uint8Array | undefined): Promise<readonly string[]> {
  const found: string[] = [];
  for await (const { entry } of readTar(chunksOf(tar ?? new Uint8Array(0), 100_000))) {
    const { path, type, linkTarget } = entry;
    found.push([path, type, linkTarget].filter(Boolean).join(' '));
  }
  return found;
}

describeWith('tarOfExt4()', [needs.program('mke2fs')], () => {
  it('gives layers that make the same as any block layers, one by one', async () => {
    let soundCount = 0;
    await fc.assert(
      fc.asyncProperty(anyLayers, async (layers) => {
        const tree = new OriginalTree(parts);
        try {
          for (const layer of layers) await tree.addLayer(items(layer));
        } catch {
          return;
        }
        await exported(layers);
        soundCount++;
      }),
      { numRuns: 300 },
    );
    expect(soundCount).toBeGreaterThan(20);
  });

  it('writes what a layer changes, and the directories that it is in', async () => {
    const [, changed, none] = await exported([
      [
        { path: 'etc', type: 'directory' },
        { path: 'etc/kept', data: bytes(9000) },
        { path: 'etc/name', data: bytes(10) },
        { path: 'usr/gone', data: bytes(10) },
        { path: 'usr/bin/tool', data: bytes(10) },
        { path: 'same', data: bytes(10_000) },
      ],
      [
        { path: 'etc/name', data: bytes(10, 2) },
        { path: 'usr/.wh.gone' },
        { path: 'usr/bin', type: 'directory', mode: 0o700 },
        { path: 'new/deep/file' },
        // The same once more.
        { path: 'same', data: bytes(10_000) },
      ],
      [],
    ]);
    expect(await entriesOf(changed)).toEqual([
      ...['etc/ directory', 'etc/name file'],
      ...['./ directory', 'new/ directory', 'new/deep/ directory', 'new/deep/file file'],
      ...['usr/bin/ directory', 'usr/ directory', 'usr/.wh.gone file'],
    ]);
    expect(await entriesOf(none)).toEqual([]);
  });

  it('marks a directory of which nothing is left as opaque', async () => {
    const old = ['a', 'b', 'c'].map((name) => ({ path: `d/${name}` }));
    const [, changed] = await exported([
      [...old, { path: 'e/only' }, { path: 'f/x' }, { path: 'f/y' }],
      [
        { path: 'd/.wh..wh..opq' },
        { path: 'd/new' },
        { path: 'e/.wh..wh..opq' },
        { path: 'f', data: bytes(3) },
      ],
    ]);
    expect(await entriesOf(changed)).toEqual([
      ...['d/ directory', 'd/.wh..wh..opq file', 'd/new file'],
      ...['e/ directory', 'e/.wh.only file'],
      ...['./ directory', 'f file'],
    ]);
  });

  it('writes all names of a file when one of them changes', async () => {
    const link = (path: string, linkTarget: string): Init => ({
      path,
      type: 'hardlink',
      linkTarget,
    });
    const [, added, removed, rest] = await exported([
      [{ path: 'a', data: bytes(5000) }, link('b', 'a'), { path: 'x' }, link('y', 'x')],
      [link('d/c', 'a')],
      [{ path: '.wh.a' }],
      [{ path: 'z', data: bytes(1) }],
    ]);
    expect(await entriesOf(added)).toEqual([
      ...['./ directory', 'a file', 'b hardlink a', 'd/ directory', 'd/c hardlink a'],
    ]);
    expect(await entriesOf(removed)).toEqual([
      ...['./ directory', '.wh.a file', 'b file', 'd/ directory', 'd/c hardlink b'],
    ]);
    expect(await entriesOf(rest)).toEqual(['./ directory', 'z file']);
  });

  it('tells files apart that exchange their links', async () => {
    const link = (path: string, linkTarget: string): Init => ({
      path,
      type: 'hardlink',
      linkTarget,
    });
    const [, changed] = await exported([
      [{ path: 'a' }, link('b', 'a'), { path: 'c' }, link('d', 'c')],
      [link('b', 'c'), link('d', 'a')],
    ]);
    expect(await entriesOf(changed)).toEqual([
      ...['./ directory', 'a file', 'b file', 'c hardlink b', 'd hardlink a'],
    ]);
  });

  it('reads no content that a layer does not touch', async () => {
    const large = { path: 'large', data: bytes(3 * MIB) };
    await withBlockLayers([[large], [{ path: 'small' }]], async (made) => {
      let readBytes = 0;
      const watched = made.map((layer) => ({
        ...layer,
        source: {
          sizeBytes: layer.source.sizeBytes,
          read: (offset: number, length: number): Promise<Uint8Array> => {
            readBytes += length;
            return layer.source.read(offset, length);
          },
        },
      }));
      const lower = await Ext4Reader.open(new LayeredImage(watched.slice(0, 1)));
      const upper = await Ext4Reader.open(new LayeredImage(watched));
      const over = changesOf(parts, { lower, upper }, made[1]!);
      const tar = await tarOf(upper, { signal, over });
      expect(await entriesOf(tar)).toEqual(['./ directory', 'small file']);
      expect(readBytes).toBeLessThan(MIB);
    });
  });

  it('refuses a name that would be a whiteout', async () => {
    await withBlockLayers([[{ path: 'd/.wi.x' }]], async ([layer]) => {
      const image = new LayeredImage([layer!]);
      const renamed = {
        sizeBytes: image.sizeBytes,
        read: async (offset: number, length: number): Promise<Uint8Array> => {
          const block = Buffer.from(await image.read(offset, length));
          const at = block.indexOf('.wi.x');
          if (at >= 0) block.write('.wh.x', at);
          return block;
        },
      };
      const reader = await Ext4Reader.open(renamed);
      await expect(tarOf(reader, { signal })).rejects.toThrow(
        /cannot write d\/\.wh\.x into a layer/,
      );
    });
  });
});
