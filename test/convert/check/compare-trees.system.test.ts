import { join } from 'node:path';
import { expect, test } from 'vitest';
import {
  BLOCK_IMAGE_DEFAULTS,
  BlockImageBuilder,
} from '../../../src/convert/block-image-builder.ts';
import { compareTrees } from '../../../src/convert/check/compare-trees.ts';
import { Ext4Reader } from '../../../src/convert/check/ext4-reader.ts';
import { OriginalTree } from '../../../src/convert/check/original-tree.ts';
import { withFile } from '../../../src/convert/files.ts';
import { readTar } from '../../../src/convert/tar/read-tar.ts';
import { openLayer } from '../../../src/image/layer.ts';
import { LayeredImage } from '../../../src/image/layered-image.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { codec } from '../../kit/layers.ts';
import { digestOf } from '../../kit/registry-content.ts';
import { describeWith, needs } from '../../kit/requires.ts';
import { bytesOf, END, member } from '../../kit/tar-encoder.ts';
import { tempFolder } from '../../kit/temp-folder.ts';

const parts = { codec, hash: new NodeHash() };
const FILES = 20_000;
const PAGE_BYTES = 64 * 1024;

async function* manyFiles(): AsyncGenerator<Uint8Array> {
  for (let i = 0; i < FILES; i++) yield member({ path: `many/${i}.txt` }, bytesOf(`file ${i}`));
  yield END;
}

describeWith('compareTrees()', [needs.program('mke2fs')], () => {
  test('reads each part of a large directory about once, however the disk orders it', async () => {
    const folder = tempFolder();
    const blobPath = join(folder, 'layer');
    const options = { ...BLOCK_IMAGE_DEFAULTS, deviceBytes: 2 ** 30 };
    const builder = await BlockImageBuilder.create(parts, folder, options);
    const chainId = digestOf(bytesOf('chain'));
    const identify = () => ({ chainId, parentChainId: undefined });
    await builder.add(readTar(manyFiles()), identify, { blobPath });
    await builder.close();
    const tree = new OriginalTree(parts);
    await tree.addLayer(readTar(manyFiles()));
    await withFile(blobPath, 'read', async (file) => {
      const image = new LayeredImage([await openLayer(file, codec)]);
      let reads = 0;
      const { sizeBytes } = image;
      const read = (offset: number, length: number): Promise<Uint8Array> => {
        reads++;
        return image.read(offset, length);
      };
      const reader = await Ext4Reader.open({ sizeBytes, read });
      const compared = await compareTrees(parts, { reader, tree });
      expect(compared).toMatchObject({ entryCount: FILES + 1, differenceCount: 0 });
      const contentPages = (FILES * 4096) / PAGE_BYTES;
      const inodePages = (FILES * 256) / PAGE_BYTES;
      expect(reads).toBeLessThan(1.5 * (contentPages + inodePages));
    });
  });
});
