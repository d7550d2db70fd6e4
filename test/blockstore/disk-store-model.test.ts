import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DiskStore } from '../../src/blockstore/disk-store.ts';
import { MemoryStore } from '../../src/blockstore/memory-store.ts';
import type { BlockStore } from '../../src/blockstore/store.ts';
import { BLOCK_SIZE_BYTES, blockCount, blockIndex } from '../../src/image/block.ts';
import { NodeDisk } from '../../src/runtime/node/disk.ts';
import { tempFolder } from '../kit/temp-folder.ts';
import { storeParts, testBlob, testBlock } from '../kit/blocks.ts';

const blobs = [
  testBlob(1, 2 * BLOCK_SIZE_BYTES + 7),
  testBlob(2, BLOCK_SIZE_BYTES),
  testBlob(3, 1),
];
const places = blobs.flatMap((blob) =>
  Array.from({ length: blockCount(blob.sizeBytes) }, (_, i) => ({ blob, index: blockIndex(i) })),
);

/** One change, or several in flight together. */
const change = fc.tuple(fc.constantFrom('put', 'put', 'drop', 'get'), fc.nat(places.length - 1));
const step = fc.oneof(
  { weight: 8, arbitrary: fc.array(change, { minLength: 1, maxLength: 6 }) },
  { weight: 1, arbitrary: fc.constant('restart' as const) },
);

async function apply(store: BlockStore, [kind, n]: readonly [string, number]): Promise<void> {
  const { blob, index } = places[n]!;
  if (kind === 'put') return store.put(blob, index, testBlock(blob, index));
  if (kind === 'drop') return store.drop(blob.digest, index);
  (await store.get(blob, index))?.payload.release();
}

async function expectSame(store: BlockStore, model: BlockStore): Promise<void> {
  const byDigest = (each: BlockStore) =>
    each.blobs().toSorted((a, b) => (a.digest < b.digest ? -1 : 1));
  expect(byDigest(store)).toEqual(byDigest(model));
  expect(store.stats()).toEqual(model.stats());
  for (const { blob, index } of places) {
    expect(store.has(blob.digest, index)).toBe(model.has(blob.digest, index));
    const [found, wanted] = [await store.get(blob, index), await model.get(blob, index)];
    expect(found?.attestation).toEqual(wanted?.attestation);
    if (found !== undefined && wanted !== undefined) {
      expect(Buffer.compare(found.payload.bytes, wanted.payload.bytes)).toBe(0);
    }
    found?.payload.release();
    wanted?.payload.release();
  }
}

describe('DiskStore against its twin', () => {
  it('DiskStore holds the same blocks as MemoryStore after any changes and restarts', async () => {
    const schedule = fc.array(step, { maxLength: 12 });
    await fc.assert(
      fc.asyncProperty(schedule, async (steps) => {
        const disk = new NodeDisk({ root: tempFolder() });
        const model = new MemoryStore();
        let store = new DiskStore(storeParts(disk));
        await Promise.all([store.start(), model.start()]);
        try {
          for (const each of steps) {
            if (each === 'restart') {
              await store.stop();
              store = new DiskStore(storeParts(disk));
              await store.start();
            } else {
              await Promise.all(each.map((one) => apply(store, one)));
              for (const one of each) await apply(model, one);
            }
            await expectSame(store, model);
          }
        } finally {
          await store.stop();
        }
      }),
      { numRuns: 40 },
    );
  });
});
