import { describe, expect, it } from 'vitest';
import { ImageDisk } from '../../../src/device/image-disk.ts';
import { withHeldFirst } from '../../../src/device/store-reader/held-first.ts';
import type { BlobReader } from '../../../src/transfer/contracts/blob-reader.ts';
import { SystemClock } from '../../../src/runtime/node/clock.ts';
import { NodeHash } from '../../../src/runtime/node/hash.ts';
import { codec, makeLayer, sampleBytes } from '../../kit/layers.ts';
import { tempFolder } from '../../kit/temp-folder.ts';
import { imageOf, MemoryReader } from '../kit/images.ts';
import { storeBlob } from '../kit/stored-image.ts';
import { openFilesBelow } from './kit/reader-rig.ts';

const SIZE = 2 * 1024 * 1024;

const NONE: BlobReader = {
  read: () => Promise.reject(new Error('the agent is away')),
  readCached: () => undefined,
};

/** Opens a layer of which a store holds some blocks. */
async function openHeld(init: { others: BlobReader; isHeld: (index: number) => boolean }) {
  const bytes = sampleBytes(SIZE, 1);
  const layer = await makeLayer({ virtualSizeBytes: SIZE, ranges: [{ offset: 0, bytes }] });
  const reader = new MemoryReader();
  const blob = reader.add(layer);
  const root = tempFolder();
  await storeBlob(root, blob, layer, init.isHeld);
  const others = init.others === NONE ? NONE : reader;
  const store = { dir: root, untrustedSigners: [], digestsOf: () => undefined };
  const components = { others, clock: new SystemClock(), codec, hash: new NodeHash() };
  const { manifest } = imageOf([blob]);
  try {
    const disk = await withHeldFirst(components, { store, blobs: [blob] }, (opener) =>
      ImageDisk.open({ reader, opener, codec }, manifest),
    );
    const target = new Uint8Array(SIZE);
    await disk.read(target, 0);
    return { disk, isRight: Buffer.compare(target, bytes) === 0 };
  } finally {
    expect(openFilesBelow(root)).toEqual([]);
  }
}

describe('withHeldFirst()', () => {
  it('opens an image whose blocks the store holds without asking others', async () => {
    const { disk, isRight } = await openHeld({ others: NONE, isHeld: () => true });
    expect(disk.sizeBytes).toBe(SIZE);
    expect(isRight).toBe(true);
  });

  it('asks others for what the store lacks', async () => {
    const { isRight } = await openHeld({ others: new MemoryReader(), isHeld: (i) => i === 0 });
    expect(isRight).toBe(true);
    const opening = openHeld({ others: NONE, isHeld: (index) => index === 0 });
    await expect(opening).rejects.toThrow('the agent is away');
  });
});
